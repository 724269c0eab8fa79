"""Declares the two operators without which torchvision cannot be imported where its compiled part does not fit torch.

PyPI's torchvision is compiled for the torch with CUDA. Beside another torch it lacks its operators, which neither copd
nor vLLM calls. `make test-vllm` has this file imported when Python starts, in the environment that it makes.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
