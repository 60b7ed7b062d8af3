"""Services with other settings, to ask what would be if."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from diag.diagnose.plans.settings import as_int
from diag.model.launch import Service, Setting

_FIELDS = {
    "tensor-parallel-size": "tensor_parallel_size",
    "pipeline-parallel-size": "pipeline_parallel_size",
    "data-parallel-size": "data_parallel_size",
    "service.workers": "replicas",
    "resources.gpu": "gpus_per_replica",
}


def with_options(service: Service, settings: Mapping[str, object]) -> Service:
    """The service as it would be with these options; sizes follow."""
    options = dict(service.options)
    for name, value in settings.items():
        old = options.get(name)
        options[name] = (
            replace(old, value=value)
            if old is not None
            else Setting(value, service.path, service.line, f"{service.name}.{name}")
        )
    fields = {_FIELDS[name]: as_int(value) for name, value in settings.items() if name in _FIELDS}
    return replace(service, options=options, **fields)  # type: ignore[arg-type]  # the fields' names are the dataclass's own
