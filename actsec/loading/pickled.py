"""What a pickle would call, read off its opcodes without running any of them."""

from __future__ import annotations

import io
import pickletools


def called(data: bytes) -> list[str]:
    """Every ``module.name`` that the pickles in ``data`` look up, sorted; [] when it is no pickle.

    Streams of several pickles are walked one after the other; bytes that are no opcodes end the walk. Names that a
    pickle computes while it runs cannot be seen, so an empty list is not a proof of harmlessness.
    """
    names: set[str] = set()
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        texts: list[str] = []
        memo: dict[int, str] = {}
        text, begun = "", stream.tell()
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in {"GLOBAL", "INST"}:
                    names.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    names.add(".".join(texts[-2:]))
                elif opcode.name in {"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"}:
                    memo[int(argument) if argument is not None else len(memo)] = text
                elif opcode.name in {"BINGET", "LONG_BINGET", "GET"} and memo.get(int(argument or 0)):
                    texts.append(memo[int(argument or 0)])
                elif isinstance(argument, str):
                    texts.append(argument)
                text = argument if isinstance(argument, str) else ""
        except Exception:  # noqa: BLE001  # arbitrary bytes raise anything; what was seen until there stands
            break
        if stream.tell() == begun:
            break
    return sorted(names)
