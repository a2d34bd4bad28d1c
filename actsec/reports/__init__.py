"""Reports: a stored result becomes blocks, blocks become sections, sections become a format. No torch is imported.

``load.read(folder)`` gives a Report, ``load.write(report, path, "html")`` renders it.
"""

if __name__ != "actsec.reports":
    raise ImportError("this folder is a signpost: import actsec.reports instead")
