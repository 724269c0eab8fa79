"""`copd data`: prepares rows of published sets, keeps the rows that teach something, finds bad rows.

- `prepare`: rows of a published set
- `prepared_media`: where their pictures and videos are
- `filter`: keeps the rows that teach something
- `answered`: what a filter has learned so far, kept for the next one
- `check`: reports every bad row of files
"""
