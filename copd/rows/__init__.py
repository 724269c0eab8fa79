"""The user's files: rows of text, images and videos, checked and made into a task.

- `rows`: the task: problems from rows, bad rows, splits
- `opening`: opens files by name, with their reader and format
- `sources`: the interface of a file of rows; JSON lines
- `json_list`: rows as one JSON list
- `parquet`: parquet files; the only module that calls pyarrow
- `hub`: data sets of the Hugging Face hub, pinned to a commit
- `formats`: rows of four libraries to one form, checked
- `usual`: columns under other names, and the names that are usual
- `references`: pictures and videos that a row names or holds
- `answers`: the reference answer of a row
- `choices`: the choices of a row and their letters
- `unread`: columns and keys of a row that are not read
- `notes`: counts what is not read, or read otherwise
- `prompts`: a row's prompt to messages
- `template`: prompt templates, in Jinja's sandbox
- `columns`: the columns of a row that go with its problem
- `index`: places of rows, and their split by hash
- `media`: images within bounds, inside the data root
- `video`: video files to frames
- `pixels`: the media of a row, decoded when they are asked for
- `check`: reports every bad row with its reason, without a model
- `survey`: what a file holds, without a recipe
- `copies`: writes some rows to a new file
"""
