"""The user's files: rows of text, images and videos, read with care, as a task.

- `rows`: the task: problems from rows, bad rows, splits
- `opening`: names to opened files: which reader, which format
- `sources`: what a file of rows offers; JSON lines
- `parquet`: parquet files; the only module that calls pyarrow
- `hub`: data sets of the Hugging Face hub, pinned to a commit
- `formats`: rows of four libraries to one form, checked
- `prompts`: a row's prompt to messages
- `template`: prompt templates, in Jinja's sandbox
- `columns`: what of a row goes with its problem
- `index`: where rows stand, and their split by hash
- `media`: images within bounds, inside the data root
- `video`: video files to frames
- `check`: every bad row with its reason, without a model
- `copies`: some rows as a new file
"""
