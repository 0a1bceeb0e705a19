"""`pynvml` with its real constants and errors, whose cards are told by the test."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml

UUID = "ffc79498-8ff3-c2dc-3b0d-fafd804516ae"


def error(code):
    return pynvml.NVMLError(code)


class FakeNvml:
    """Answers of one card by query name; a value, an exception to raise, or a function of the arguments."""

    def __init__(self, uuid=f"GPU-{UUID}", **answers):
        self.uuid = uuid
        self.inits = 0
        self.answers = {
            "Name": "NVIDIA H100 80GB HBM3",
            "MigMode": [pynvml.NVML_DEVICE_MIG_DISABLE] * 2,
            "VirtualizationMode": pynvml.NVML_GPU_VIRTUALIZATION_MODE_NONE,
            "TotalEnergyConsumption": 123_456,
            "Temperature": 41,
            "TemperatureV": error(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
            "PowerUsage": 298_500,
            "FieldValues": self.power_field(301_250),
            "EnforcedPowerLimit": 700_000,
            "PowerManagementDefaultLimit": 700_000,
            "ClockInfo": lambda kind: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind],
            "MaxClockInfo": lambda kind: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind],
            "PersistenceMode": 1,
            "EccMode": [1, 1],
            "PerformanceState": 0,
            "CurrentClocksEventReasons": 0,
            "CurrentClocksThrottleReasons": 0,
            **answers,
        }

    @staticmethod
    def power_field(milliwatts, status=pynvml.NVML_SUCCESS):
        return lambda fields: [SimpleNamespace(nvmlReturn=status, value=SimpleNamespace(uiVal=milliwatts))]

    def nvmlInit(self):  # noqa: N802
        self.inits += 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "575.57.08"

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != self.uuid:
            raise error(pynvml.NVML_ERROR_NOT_FOUND)
        return "card"

    def __getattr__(self, name):
        query = name.removeprefix("nvmlDeviceGet")
        if query == name or query not in self.answers:
            return getattr(pynvml, name)

        def ask(handle, *args):
            assert handle == "card"
            answer = self.answers[query]
            if isinstance(answer, Exception):
                raise answer
            return answer(*args) if callable(answer) else answer

        return ask


def without_driver():
    fake = FakeNvml()

    def fails():
        raise error(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    fake.nvmlInit = fails
    return fake
