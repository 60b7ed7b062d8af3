"""Models that a RayService serves: `serveConfigV2` is a YAML text inside the manifest, with engines' options in it."""

from __future__ import annotations

from collections.abc import Iterator

from diag.model.launch import Setting
from diag.observe.plans.build import build_service
from diag.observe.plans.engine_files import settings_of_tree, unknown_keys_of
from diag.observe.plans.interface import PlacedService, PlacedSetting
from diag.observe.plans.values import as_int
from diag.observe.plans.yaml_tree import Node, parse_documents, shell_text
from diag.system import UserError


def services_of_serve_config(node: Node, text: str, path: str) -> Iterator[PlacedService]:
    """One service a model (ray.serve.llm) and one a deployment that asks for GPUs."""
    inner, places = shell_text(node, text) if node.style in ("|", ">") else (str(node.value), [])
    try:
        documents = parse_documents(inner, path)
    except UserError:
        return
    applications = documents[0].get("applications") if documents else None
    for application in applications.items if applications is not None else []:
        configs = application.get("args", "llm_configs")
        for index, config in enumerate(configs.items if configs is not None else []):
            if config.is_map:
                yield _model(config, index, path, _Places(node, text, places))
        deployments = application.get("deployments")
        for deployment in deployments.items if deployments is not None else []:
            gpus = as_int(deployment.plain("ray_actor_options", "num_gpus"))
            if gpus:
                yield _plain(deployment, gpus, path, _Places(node, text, places))


class _Places:
    """Offsets of the inner text as offsets and lines of the file."""

    def __init__(self, node: Node, text: str, places: list[tuple[int, int]]) -> None:
        self.node, self.text, self.places = node, text, places

    def of(self, inner: Node) -> tuple[int, int, int]:
        """(start, end, line) in the file; no offsets where the text is quoted."""
        if not self.places or inner.start < 0:
            return -1, -1, self.node.line + inner.line
        here, there = max((place for place in self.places if place[0] <= inner.start), default=self.places[0])
        start = there + inner.start - here
        return start, start + inner.end - inner.start, self.text.count("\n", 0, start) + 1


def _model(config: Node, index: int, path: str, places: _Places) -> PlacedService:
    options: dict[str, Setting] = {}
    engine = config.get("engine_kwargs")
    for key, setting in (
        settings_of_tree(engine, "vllm", path) if engine is not None and engine.is_map else {}
    ).items():
        if isinstance(setting, PlacedSetting):
            inner = Node(None, setting.line or 1, setting.start, setting.end, 0)
            start, end, line = places.of(inner)
            options[key] = PlacedSetting(
                setting.value, path, line, f"engine_kwargs.{setting.key}", start, end
            )
    source = config.get("model_loading_config", "model_source") or config.get(
        "model_loading_config", "model_id"
    )
    if source is not None and isinstance(source.value, str):
        options.setdefault("model", Setting(source.value, path, places.of(source)[2], "model_loading_config"))
    kind = config.get("accelerator_type")
    if kind is not None and isinstance(kind.value, str):
        start, end, line = places.of(kind)
        options["ray.accelerator-type"] = PlacedSetting(
            kind.value, path, line, "accelerator_type", start, end
        )
    replicas = as_int(config.plain("deployment_config", "num_replicas")) or as_int(
        config.plain("deployment_config", "autoscaling_config", "min_replicas")
    )
    name = str(config.plain("model_loading_config", "model_id") or f"llm_configs[{index}]")
    return build_service(
        name,
        options,
        role="worker",
        framework="vllm",
        replicas=1 if replicas is None else replicas,
        path=path,
        line=places.of(config)[2],
        program="ray.serve.llm",
        unknown=tuple(unknown_keys_of(engine, "vllm") if engine is not None and engine.is_map else ()),
        flags={
            key: places.of(at)[:2]
            for key, at in (
                unknown_keys_of(engine, "vllm") if engine is not None and engine.is_map else {}
            ).items()
        },
        notes={"part": "ray", "kubernetes": "true"},
    )


def _plain(deployment: Node, gpus: int, path: str, places: _Places) -> PlacedService:
    replicas = as_int(deployment.plain("num_replicas")) or as_int(
        deployment.plain("autoscaling_config", "min_replicas")
    )
    return build_service(
        str(deployment.plain("name") or "deployment"),
        {"ray.num-gpus": Setting(gpus, path, places.of(deployment)[2], "ray_actor_options.num_gpus")},
        role="other",
        replicas=1 if replicas is None else replicas,
        path=path,
        line=places.of(deployment)[2],
        program="ray.serve",
        notes={"part": "ray", "kubernetes": "true"},
    )
