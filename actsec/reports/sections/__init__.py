"""Sections: one file, one ``section(report)`` that yields blocks. Their order is in ``actsec.reports.order``."""
