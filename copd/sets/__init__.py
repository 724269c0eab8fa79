"""Published data sets and benchmarks, as rows of ours. No code of a set is run.

- `published`: the sets by name: where they are, their licences, and the shapes of their files
- `text`: Polaris, and the five tests of text
- `image`: MMFineReason, ZeroBench
- `video`: OneThinker, Video-R1, VideoChat-R1
- `converting`: what all of them have in common: columns, answers, verifiers
- `overlap`: training rows that repeat a test problem
"""
