"""The final answer of a response. Text is only searched, never run or parsed as code."""

BOXED = "\\boxed{"


def final_answer(response: str, *, finished: bool) -> str | None:
    """The content of the response's only `\\boxed{}`, or None.

    None for a response that the length limit cut, for one with no box or with several, and for a box that is never
    closed: a response that lists all options answers nothing.
    """
    if not finished or response.count(BOXED) != 1:
        return None
    start = response.index(BOXED) + len(BOXED)
    depth = 1
    for at, character in enumerate(response[start:], start):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return response[start:at].strip()
    return None
