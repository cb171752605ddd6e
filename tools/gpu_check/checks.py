"""The checks, in their order: what would make all that follows fail comes first."""

from gpu_check.running import Check

TESTS = ("pytest", "xdist", "beartype")  # what tests import
CHECKS = [
    Check("0 machine", "gpu_check.machine:parts", 40),
    Check("1 devices: functions, models", "gpu_check.devices:of_functions", 100, needs=TESTS),
    Check("1 devices: learners", "gpu_check.devices:of_learners", 100, needs=TESTS),
    Check("2 same bits", "gpu_check.bits:parts", 60),
    Check("3 the CPU's numbers", "gpu_check.cpu_numbers:parts", 60),
    Check("4 waits in a step", "gpu_check.steps:waits", 60, needs=TESTS),
    Check("4 captured steps", "gpu_check.steps:captures", 60, needs=TESTS),
    Check("5 clocks", "gpu_check.clocks:parts", 40, alone=True),
    Check("6 two ranks on one GPU", "gpu_check.groups:on_engines", 80, one_gpu=True, needs=("ipyparallel",)),
    Check("7 a GPU for each rank: torchrun", "gpu_check.groups:under_torchrun", 60, gpus=2),
    Check("7 a GPU for each rank: engines", "gpu_check.groups:on_engines", 80, gpus=2, needs=("ipyparallel",)),
    Check("7 four ranks", "gpu_check.groups:four_engines", 60, gpus=4, needs=("ipyparallel",)),
    Check("7 CUDA_VISIBLE_DEVICES", "gpu_check.visible:parts", 60, gpus=2, needs=("ipyparallel",)),
    Check("8 faults, one GPU", "gpu_check.faults:parts", 90, one_gpu=True, needs=("ipyparallel",)),
    Check("8 faults, a GPU for each rank", "gpu_check.faults:parts", 150, gpus=2, needs=("ipyparallel",)),
    Check("9 CUDA tests", "gpu_check.suites:cuda_tests", 60, needs=TESTS),
    Check("9 notebooks", "gpu_check.suites:notebooks", 150, needs=("nbconvert", "ipykernel")),
    Check("10 speeds", "gpu_check.speeds:parts", 60, alone=True),
    Check("10 memory", "gpu_check.memory:parts", 40, alone=True),
]
REHEARSAL = Check("the rehearsal", "gpu_check.suites:rehearsal", 1200, needs=TESTS)  # a CPU that others use is slow
