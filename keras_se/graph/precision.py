"""The precisions in which a model computes."""

from typing import Any

import keras

from keras_se.graph.models import sublayers


def in_float32(dtype: Any) -> Any:
    """The float32 form of a dtype or policy that computes in another float; others as they are."""
    if dtype is None or not _is_other(keras.dtype_policies.get(dtype).compute_dtype):
        return dtype
    mode = keras.dtype_policies.get(dtype).quantization_mode
    return "float32" if mode is None else f"{mode}_from_float32"


def other_precisions(model: keras.Model) -> list[str]:
    """The policies and input dtypes, by name, with which a model computes not in float32."""
    policies = [layer.dtype_policy for layer in (model, *sublayers(model))]
    used = {policy.name: policy.compute_dtype for policy in policies}
    used |= {tensor.dtype: tensor.dtype for tensor in model.inputs}
    return sorted(name for name, dtype in used.items() if _is_other(dtype))


def _is_other(dtype: Any) -> bool:
    return "float" in str(dtype) and dtype != "float32"
