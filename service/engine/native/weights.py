"""A transformers language model's weights, packed as `matmul.h` reads them.

Taken from the loaded modules, so whatever transformers did (merged adapters, tied or resized embeddings, scaled
rotary tables) is in them.
"""

import ctypes
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.engine.context import uniform_window

Format = Literal["float32", "bfloat16", "int8"]
FORMATS: dict[Format, int] = {"float32": 0, "bfloat16": 1, "int8": 2}

PANEL = 32  # matmul.h
GROUP = 64  # matmul.h


class Unsupported(ValueError):
    """The decoder does not compute this model; the message says what is different about it."""


class Linear(ctypes.Structure):
    """As in `matmul.h`."""

    _fields_ = [
        ("panels", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
    ]


class Layer(ctypes.Structure):
    """As in `decoder.cpp`."""

    _fields_ = [
        *((name, Linear) for name in ("qkv", "output", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("norm", "norm_bias", "mlp_norm", "mlp_norm_bias")),
    ]


class Model(ctypes.Structure):
    """As in `decoder.cpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("format", "layers", "hidden", "heads", "kv_heads", "head_dim", "rotary_dim")
        ),
        *((name, ctypes.c_int32) for name in ("intermediate", "layer_norm", "gated", "window")),
        ("epsilon", ctypes.c_float),
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
        ("layer", ctypes.POINTER(Layer)),
        ("norm", ctypes.c_void_p),
        ("norm_bias", ctypes.c_void_p),
        ("head", Linear),
    ]


def pack(weight: Tensor, format: Format) -> tuple[Tensor, Tensor | None]:
    """A weight `[outputs, inputs]` as panels `[outputs / 32, inputs / per_unit, 32, per_unit]`.

    int8 is symmetric with one scale an output, stored as `value + 128` in uint8.

    Returns:
        The panels, and with int8 the scales `[outputs]`, float32.
    """
    outputs, inputs = weight.shape
    weight = nn.functional.pad(weight, (0, 0, 0, -outputs % PANEL))
    scale = None
    if format == "int8":
        per_unit = 4
        weight = weight.float()
        scale = weight.abs().amax(1).clamp(min=1e-10) / 127
        weight = ((weight / scale[:, None]).round() + 128).to(torch.uint8)
        scale = scale[:outputs].contiguous()
    else:
        per_unit = 2 if format == "bfloat16" else 1
        weight = weight.to(getattr(torch, format))
    panels = weight.view(-1, PANEL, inputs // per_unit, per_unit).permute(0, 2, 1, 3).contiguous()
    return panels, scale


class PackedModel:
    """The C structure and the tensors that it points to.

    Args:
        positions: tokens of the longest sequence.
        release: empty each of the model's own matrices once it is packed, but for the token embeddings, which
            stay in use; the model then only embeds.

    Raises:
        Unsupported: another architecture, or sizes that the packing does not take.
    """

    def __init__(self, lm: PreTrainedModel, format: Format, *, positions: int, release: bool = False) -> None:
        config, decoder = lm.config, lm.model
        self._format: Format = format
        self._kept: list[object] = []
        self._release = release
        self._embedding = lm.get_input_embeddings().weight
        self.kind = config.model_type
        if self.kind not in _LAYERS:
            raise Unsupported(f"its architecture is {self.kind}; known are {', '.join(_LAYERS)}")
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._check(lm)
        layers = (Layer * config.num_hidden_layers)(*(_LAYERS[self.kind](self, m) for m in decoder.layers))
        norm = decoder.final_layernorm if self.kind == "phi" else decoder.norm
        cosine, sine = self._rotary(decoder.rotary_emb, positions)
        self.struct = Model(
            format=FORMATS[format],
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=self.head_dim,
            rotary_dim=2 * cosine.shape[1],
            intermediate=config.intermediate_size,
            layer_norm=self.kind == "phi",
            gated=self.kind != "phi",
            window=uniform_window(config) or 0,
            epsilon=config.layer_norm_eps if self.kind == "phi" else config.rms_norm_eps,
            cosine=self.vector(cosine),
            sine=self.vector(sine),
            layer=layers,
            norm=self.vector(norm.weight),
            norm_bias=self.vector(getattr(norm, "bias", None)),
            head=self.linear(lm.get_output_embeddings()),
        )

    def vector(self, tensor: Tensor | None) -> int | None:
        """Keeps a float32 copy; its address, None for None."""
        if tensor is None:
            return None
        copy = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        self._kept.append(copy)
        return copy.data_ptr()

    def linear(self, *modules: nn.Linear) -> Linear:
        """Several layers over the same input as one."""
        weight = torch.cat([module.weight.detach() for module in modules])
        biases = [module.bias for module in modules]
        panels, scale = pack(weight, self._format)
        self._kept += [panels, scale]
        if self._release:
            for module in modules:
                if module.weight is not self._embedding:
                    module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
        return Linear(
            panels=panels.data_ptr(),
            scale=None if scale is None else scale.data_ptr(),
            bias=None if biases[0] is None else self.vector(torch.cat([bias.detach() for bias in biases])),
            inputs=weight.shape[1],
            outputs=weight.shape[0],
        )

    def _check(self, lm: PreTrainedModel) -> None:
        config = lm.config
        group = GROUP if self._format == "int8" else 16
        widths = (config.hidden_size, config.intermediate_size, config.num_attention_heads * self.head_dim)
        if any(width % group for width in widths) or self.head_dim % 16:
            raise Unsupported(
                f"its widths {', '.join(map(str, widths))} are not multiples of {group}, "
                f"or its head dimension {self.head_dim} is not one of 16"
            )
        linears = [module for module in lm.modules() if isinstance(module, nn.Linear)]
        if any(type(module) is not nn.Linear for module in linears):
            raise Unsupported(
                "its linear layers are not plain ones (quantised, or adapters that are not merged)"
            )
        activation = "gelu_new" if self.kind == "phi" else "silu"
        if config.hidden_act != activation:
            raise Unsupported(f"its activation is {config.hidden_act}, not {activation}")
        if getattr(config, "qk_layernorm", False):
            raise Unsupported("it normalises queries and keys")

    @staticmethod
    def _rotary(module: nn.Module, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, `[positions, rotary_dim / 2]`, from the model's own module."""
        ids = torch.arange(positions, device=module.inv_freq.device)[None]
        cosine, sine = module(torch.zeros(1, dtype=torch.float32, device=ids.device), ids)
        half = cosine.shape[-1] // 2
        return cosine[0, :, :half], sine[0, :, :half]


def _llama(model: PackedModel, layer: nn.Module) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        qkv=model.linear(attention.q_proj, attention.k_proj, attention.v_proj),
        output=model.linear(attention.o_proj),
        up=model.linear(mlp.gate_proj, mlp.up_proj),
        down=model.linear(mlp.down_proj),
        norm=model.vector(layer.input_layernorm.weight),
        mlp_norm=model.vector(layer.post_attention_layernorm.weight),
    )


def _phi3(model: PackedModel, layer: nn.Module) -> Layer:
    return Layer(
        qkv=model.linear(layer.self_attn.qkv_proj),
        output=model.linear(layer.self_attn.o_proj),
        up=model.linear(layer.mlp.gate_up_proj),
        down=model.linear(layer.mlp.down_proj),
        norm=model.vector(layer.input_layernorm.weight),
        mlp_norm=model.vector(layer.post_attention_layernorm.weight),
    )


def _phi(model: PackedModel, layer: nn.Module) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        qkv=model.linear(attention.q_proj, attention.k_proj, attention.v_proj),
        output=model.linear(attention.dense),
        up=model.linear(mlp.fc1),
        down=model.linear(mlp.fc2),
        norm=model.vector(layer.input_layernorm.weight),
        norm_bias=model.vector(layer.input_layernorm.bias),
    )


_LAYERS = {"llama": _llama, "phi": _phi, "phi3": _phi3}
