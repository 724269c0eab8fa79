"""A reward function at the top level of a file, as a program has it."""


def short(response: str, answer: str) -> float:
    return 1 - len(response) / 1000
