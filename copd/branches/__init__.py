"""A branch, and the handles on it, wherever it lives.

- `actor`: policy, tasks and grading, put together
- `branch`: an actor that learns and teaches
- `rater`: an actor that says how often its policy answers rows rightly
- `state`: a branch's part of a checkpoint, written and read by the branch
- `described`: the metrics of a batch's responses
- `refilled`: further prompts in the place of groups without signal
- `kept`: the last batches of a branch, to be replayed
- `settings`: the settings of the parts of an update
- `signals`: the signals of OPD, from the teacher's answer to the student's objective
- `handle`: the one class of handles
- `local`: calls to a branch of this process; turns on a device
- `travel`: what crosses between processes: tensors as bytes, problems by their address
- `processes`: calls to a branch in a process of its own
- `ray`: calls to a branch that is an actor of Ray
- `patience`: how long a run waits for an answer
- `shortage`: what a branch says when memory does not suffice
"""
