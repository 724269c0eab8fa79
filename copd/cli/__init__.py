"""The command line: each command parses its words, calls what does the work in `copd.commands`, and exits.

- `app`: all commands; `copd train`, `doctor`, `report` and `warmup` themselves
- `arguments`: what several commands take
- `models`: `copd eval`, `behaviour` and `merge`
- `ask`: `copd ask`
- `benchmark`: `copd benchmark`
- `compare`: `copd compare` and `advise`
- `data`: `copd data check` and `filter`
- `example`: `copd example`
- `export`: `copd export`
- `init`: `copd init`
- `plan`: `copd plan`
- `push`: `copd push`
- `recipe`: `copd recipe list` and `show`
- `watch`: `copd watch`
"""

from copd.cli.app import app, main

__all__ = ["app", "main"]
