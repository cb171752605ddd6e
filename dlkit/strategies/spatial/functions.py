"""Names of functions and methods, as rules over rows know them."""

ALIKE = frozenset((
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu",
    "silu", "mish", "softplus", "softsign", "tanh", "tanh_", "hardtanh", "hardtanh_", "sigmoid", "sigmoid_",
    "logsigmoid", "hardswish", "hardsigmoid", "threshold", "dropout", "alpha_dropout", "rrelu", "abs", "neg", "exp",
    "exp_", "log", "log1p", "expm1", "sqrt", "rsqrt", "square", "sin", "cos", "erf", "sign", "round", "floor",
    "ceil", "reciprocal", "isfinite", "isnan", "clone", "contiguous", "detach", "detached", "float", "double",
    "half", "bfloat16", "nan_to_num", "stochastic_depth", "zeros_like", "ones_like", "rand_like", "randn_like",
    "bernoulli", "logit", "tanhshrink", "hardshrink", "softshrink", "requires_grad_",
))  # fmt: skip
OF_MAPS = frozenset((
    "dropout2d", "feature_dropout", "feature_alpha_dropout",
))  # fmt: skip
BROADCAST = frozenset((
    "add", "sub", "mul", "truediv", "div", "true_divide", "floordiv", "pow", "iadd", "isub", "imul", "itruediv",
    "add_", "sub_", "mul_", "div_", "multiply", "subtract", "divide", "maximum", "minimum", "max", "min", "where",
    "eq", "ne", "lt", "le", "gt", "ge", "eq_", "lerp", "addcmul", "addcdiv", "clamp", "clamp_", "fmod", "remainder",
    "rsub", "logical_and", "logical_or", "logical_not", "masked_fill", "atan2", "hypot", "copysign", "and_", "or_",
    "invert", "neg", "pos",
))  # fmt: skip
BY_ROWS = frozenset((
    "mean", "sum", "amax", "amin", "prod", "std", "var", "logsumexp", "softmax", "log_softmax", "normalize",
    "argmax", "cumsum",
))  # fmt: skip
