"""The enumerations of llama.h and ggml.h that appear in our interface, with llama.cpp's values.

They know numbers and names only; `tests/llama_native/test_enums.py` compares them with the headers of the build.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class SplitMode(IntEnum):
    """How a model is spread over several devices."""

    NONE = 0
    LAYER = 1
    ROW = 2
    TENSOR = 3


class LoadMode(IntEnum):
    """How the weights get from the file into memory."""

    AUTO = -1
    NONE = 0
    MMAP = 1
    MLOCK = 2
    MMAP_MLOCK = 3
    DIRECT_IO = 4


class VocabType(IntEnum):
    """The kind of tokenizer."""

    NONE = 0
    SPM = 1
    BPE = 2
    WPM = 3
    UGM = 4
    RWKV = 5
    PLAMO2 = 6
    TEST = 7


class TokenAttr(IntFlag):
    """What kind of token it is; several may hold at once."""

    UNDEFINED = 0
    UNKNOWN = 1 << 0
    UNUSED = 1 << 1
    NORMAL = 1 << 2
    CONTROL = 1 << 3
    USER_DEFINED = 1 << 4
    BYTE = 1 << 5
    NORMALIZED = 1 << 6
    LSTRIP = 1 << 7
    RSTRIP = 1 << 8
    SINGLE_WORD = 1 << 9


class RopeType(IntEnum):
    """The layout of rotary position embeddings."""

    NONE = -1
    NORM = 0
    NEOX = 2
    MROPE = 8
    VISION = 24
    IMROPE = 40


class RopeScaling(IntEnum):
    """How rotary positions are stretched beyond the trained context."""

    UNSPECIFIED = -1
    NONE = 0
    LINEAR = 1
    YARN = 2
    LONGROPE = 3


class Pooling(IntEnum):
    """How the embeddings of a sequence's tokens become one vector."""

    UNSPECIFIED = -1
    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4


class Attention(IntEnum):
    """Which tokens a token may attend to."""

    UNSPECIFIED = -1
    CAUSAL = 0
    NON_CAUSAL = 1


class FlashAttention(IntEnum):
    """Whether attention is computed by the fused flash-attention operation."""

    AUTO = -1
    OFF = 0
    ON = 1


class GgmlType(IntEnum):
    """Data types that a KV cache can have."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    IQ4_NL = 20
    BF16 = 30


class FileType(IntEnum):
    """The weights format that most tensors of a model file have; also the target of `quantize`."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 7
    Q5_0 = 8
    Q5_1 = 9
    Q2_K = 10
    Q3_K_S = 11
    Q3_K_M = 12
    Q3_K_L = 13
    Q4_K_S = 14
    Q4_K_M = 15
    Q5_K_S = 16
    Q5_K_M = 17
    Q6_K = 18
    IQ2_XXS = 19
    IQ2_XS = 20
    Q2_K_S = 21
    IQ3_XS = 22
    IQ3_XXS = 23
    IQ1_S = 24
    IQ4_NL = 25
    IQ3_S = 26
    IQ3_M = 27
    IQ2_S = 28
    IQ2_M = 29
    IQ4_XS = 30
    IQ1_M = 31
    BF16 = 32
    TQ1_0 = 36
    TQ2_0 = 37
    MXFP4_MOE = 38
    NVFP4 = 39
    Q1_0 = 40
    Q2_0 = 41
    GUESSED = 1024


class ThreadPriority(IntEnum):
    """Scheduling priority of a thread pool's threads."""

    LOW = -1
    NORMAL = 0
    MEDIUM = 1
    HIGH = 2
    REALTIME = 3


class DeviceType(IntEnum):
    """What kind of compute device it is."""

    CPU = 0
    GPU = 1
    IGPU = 2
    ACCEL = 3
    META = 4
