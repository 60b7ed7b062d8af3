"""Where a stack stands: what the process does there, and whether that is waiting for others, work of its own, or idling.

Frames are texts such as `all_reduce (torch/distributed/distributed_c10d.py:3245)`, innermost first. The innermost frame that
says something decides; what merely blocks (a lock, a socket) only where no frame says more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """A place where processes of launches stand."""

    name: str
    kind: str
    """waits: for other processes of the job. local: its own work, disk, network, lock. idle: for something to do."""
    detail: str = ""
    """The call that told."""


_C10D = r"\(\S*distributed/(?:distributed_c10d|_functional_collectives)\.py"
SPECIFIC: tuple[tuple[str, str, str], ...] = (
    # (name, kind, pattern)
    ("barrier", "waits", rf"^(?:\w+\.)*(?:monitored_)?barrier {_C10D}"),
    ("collective", "waits", rf"^(?:\w+\.)*(?:all_reduce|all_gather\w*|_all_gather_base|broadcast\w*|reduce|reduce_scatter\w*|scatter\w*|gather\w*|all_to_all\w*|_\w*object\w*|all_reduce_coalesced|wait_tensor) {_C10D}"),
    ("transfer", "waits", rf"^(?:\w+\.)*(?:send|recv|isend|irecv|batch_isend_irecv|send_object_list|recv_object_list) {_C10D}"),
    ("rendezvous", "waits", r"(?:_rendezvous_handler|next_rendezvous|_create_c10d_store|_create_tcp_store|_store_based_barrier|create_backend|_rendezvous|init_process_group|_new_process_group_helper|_new_group_with_tag|new_group) \(\S*(?:torch/distributed|distributed/(?:rendezvous|elastic|distributed_c10d)|elastic/)"),
    ("collective", "waits", r"(?:all_reduce|all_gather|broadcast|reduce_scatter|send|recv|ncclCommInitRank|group_end) \(\S*(?:pynccl\w*|custom_all_reduce|cuda_communicator|cpu_communicator|shm_broadcast_|parallel_state|communication_op)\.py"),
    ("ring", "waits", r"(?:acquire_read|acquire_write|dequeue|enqueue|wait_until_ready) \(\S*(?:shm_broadcast|message_queue)\.py"),
    ("ready", "waits", r"(?:wait_for_engine_startup|wait_for_ready|wait_for_response_handle_ready|_wait_for_response|wait_for_completion_or_failure|launch_core_engines|_wait_and_warmup|_wait_for_scheduler_ready|wait_for_workers?)\b"),
    ("placement", "waits", r"(?:_wait_until_pg_ready|wait_placement_group|initialize_ray_cluster|placement_group_wait)\b|^wait \(\S*ray/util/placement_group\.py"),
    ("actors", "waits", r"^(?:get|wait|get_objects) \(\S*ray/_private/worker\.py"),
    ("kv-transfer", "waits", r"\(\S*(?:nixl/|nixl_\w+\.py|mooncake\w*[/.]|kv_connector/|kv_transfer/|/disaggregation/|lmcache/)|(?:nixl|mooncake)\w*\.\w+ \("),
    ("download", "local", r"\(\S*(?:huggingface_hub/|modelscope/|hf_transfer|s3transfer/|botocore/|google/cloud/storage/|runai_model_streamer/)|(?:download_weights_from_hf|snapshot_download|hf_hub_download|cached_files?|http_get|urlretrieve|load_state_dict_from_url) \("),
    ("graph-capture", "local", r"(?:capture_model|_?capture_cuda_?graphs?|graph_capture|capture_begin|capture_end|capture_one_batch_size|init_(?:cuda|device)_graphs?|_dummy_run_capture|CUDAGraph\w*\.\w+) \("),
    ("build-lock", "local", r"\(\S*file_baton\.py|FileBaton\.wait|wait \(\S*cpp_extension\.py|acquire \(\S*filelock/"),
    ("compile", "local", r"\(\S*(?:torch/_inductor/|torch/_dynamo/|_inductor/|_dynamo/|triton/compiler/|triton/runtime/(?:jit|build|autotuner)|cpp_extension\.py|flashinfer/jit|flashinfer/\w+/jit|deep_gemm/jit|tilelang/|cutlass/|tvm_ffi/)|(?:compile_or_warm_up_model|load_inline|jit_compile) \("),
    ("weights", "local", r"\(\S*(?:safetensors/|model_executor/model_loader/|model_loader/|torch/serialization\.py|transformers/modeling_utils\.py|checkpoint_engine)|(?:load_model|load_weights|load_checkpoint|load_state_dict|from_pretrained|_load_w13|default_weight_loader|load_safetensors\w*|safetensors_weights_iterator) \("),
    ("checkpoint", "local", r"^(?:\w+\.)*(?:save|save_checkpoint|save_pretrained|_save\w*|async_save|save_state_dict) \("),
    ("data", "local", r"(?:_next_data|_try_get_data|_get_data|__next__|fetch|_process_next_batch) \(\S*(?:torch/utils/data|utils/data/|dataloader\.py)"),
    ("dns", "local", r"(?:getaddrinfo|gethostbyname\w*|getfqdn|getnameinfo) \(|^(?:getaddrinfo|gethostbyname\w*|getfqdn)\b"),
    ("connect", "local", r"(?:create_connection|_connect|connect|connect_ex) \(\S*(?:socket|urllib3/connection|http/client|httpcore|asyncio/\w+|etcd3?\w*|nats)\S*\.py"),
    ("control-plane", "waits", r"\(\S*(?:etcd3?/|nats/|dynamo/runtime|kubernetes/client)"),
    ("profiling", "local", r"(?:determine_available_memory|profile_run|determine_num_available_blocks) \("),
)  # fmt: skip
GENERIC: tuple[tuple[str, str, str], ...] = (
    ("subprocess", "local", r"\(\S*subprocess\.py"),
    ("lock", "local", r"^(?:\w+\.)*(?:acquire|wait|wait_for|join|_wait_for_tstate_lock|get|put|result|shutdown|__enter__) \(\S*(?:threading|queue|concurrent/futures/\w+|synchronize|semaphore)\.py"),
    ("process-queue", "local", r"\(\S*multiprocessing/(?:connection|queues|popen_\w+|managers|process)\.py"),
    ("socket", "local", r"\(\S*(?:socket|ssl|http/client|urllib3/\w+|requests/\w+|httpx/\w+|httpcore/\S+|grpc/\S+|aiohttp/\w+)\.py"),
    ("event-loop", "idle", r"^(?:\w+\.)*(?:select|_run_once|poll) \(\S*(?:selectors|asyncio/base_events|asyncio/\w+|uvloop/\w+)\.py"),
)  # fmt: skip
IDLE: tuple[tuple[str, str], ...] = (
    # (outer call that idles, what may stand inside it)
    (r"worker_busy_loop \(", r"(?:acquire_read|dequeue|__enter__|wait|poll|recv|select|memory_fence|helper|get|wait_until)\b"),
    (r"(?:run_busy_loop|_process_input_queue) \(", r"(?:get|wait|_process_input_queue|acquire|process_input_queue_block|run_busy_loop)\b"),
    (r"(?:run_forever|run_until_complete|asyncio\.run|_serve|run_engine_loop) \(|^run \(\S*(?:uvloop|asyncio/runners)", r"(?:select|_run_once|poll|run_until_complete|wrapper|run_forever|run)\b"),
    (r"(?:_invoke_run) \(\S*elastic/agent", r"(?:_invoke_run|sleep|wait|_monitor_workers)\b"),
    (r"(?:event_loop\w*|recv_requests|recv_from_rpc) \(\S*sglang/", r"(?:recv\w*|recv_requests|broadcast_pyobj|poll|event_loop\w*|broadcast|wrapper|point_to_point_pyobj|_recv\w*|send_pyobj)\b"),
    (r"(?:_has_global_unfinished_reqs) \(\S*vllm/", r"(?:all_reduce|wrapper|has_unfinished_dp|_has_global_unfinished_reqs|_exception_logger\S*)"),
    (r"main_loop \(\S*ray/_private/worker", r"main_loop\b"),
    (r"(?:rayon|Runtime|runtime)\S* \(\S*dynamo", r"\w+"),
)  # fmt: skip
PHASES: tuple[tuple[str, str], ...] = (
    (r"(?:capture_model|_?capture_cuda_?graphs?|graph_capture|capture_one_batch_size|init_(?:cuda|device)_graphs?) \(", "graph-capture"),
    (r"(?:compile_or_warm_up_model) \(|\(\S*torch/_inductor/|\(\S*_inductor/", "compile"),
    (r"(?:initialize_kv_caches?|initialize_cache|init_memory_pool|_initialize_kv_caches) \(", "kv-cache"),
    (r"(?:determine_available_memory|profile_run|determine_num_available_blocks) \(", "profiling"),
    (r"(?:load_model|load_weights|from_pretrained|load_checkpoint|snapshot_download|download_weights_from_hf) \(", "weights"),
    (r"(?:init_worker_distributed_environment|init_distributed_environment|initialize_model_parallel|init_torch_distributed|ncclCommInitRank|new_group|_new_process_group_helper) \(", "communicator"),
    (r"(?:init_process_group|_rendezvous_handler|next_rendezvous|_rendezvous|_create_c10d_store|rendezvous) \(", "rendezvous"),
    (r"(?:worker_busy_loop|run_busy_loop|event_loop_\w+|run_forever|execute_model|train_step|training_step|train) \(", "serving"),
)  # fmt: skip

_NOISE = re.compile(
    r"(?:wrapper|_exception_logger|<lambda>|__call__|inner|_fn|decorate_context|helper) \(|<locals>\.wrapper"
)
_COMPILED = [(name, kind, re.compile(pattern)) for name, kind, pattern in SPECIFIC]
_COMPILED_GENERIC = [(name, kind, re.compile(pattern)) for name, kind, pattern in GENERIC]
_COMPILED_IDLE = [(re.compile(outer), re.compile(inner)) for outer, inner in IDLE]
_COMPILED_PHASES = [(re.compile(pattern), phase) for pattern, phase in PHASES]
GENERIC_DEPTH = 5


def site_of(frames: Sequence[str]) -> Site | None:
    """Where a stack stands; None where no frame is known."""
    if _is_idle(frames):
        return Site("idle", "idle", frames[0])
    for number, frame in enumerate(frames):
        for name, kind, pattern in _COMPILED:
            if pattern.search(frame):
                return _sharper(frames[number + 1 : number + 1 + GENERIC_DEPTH], Site(name, kind, frame))
    for frame in frames[:GENERIC_DEPTH]:
        for name, kind, pattern in _COMPILED_GENERIC:
            if pattern.search(frame):
                return Site(name, kind, frame)
    return None


def _sharper(outer: Sequence[str], site: Site) -> Site:
    """What waits for Ray's answer may wait for a place in the cluster: the calls around it tell."""
    if site.name == "actors":
        for name, kind, pattern in _COMPILED:
            for frame in outer if name == "placement" else ():
                if pattern.search(frame):
                    return Site(name, kind, frame)
    return site


def _is_idle(frames: Sequence[str]) -> bool:
    for outer, inner in _COMPILED_IDLE:
        depth = next((number for number, frame in enumerate(frames) if outer.search(frame)), None)
        if depth is not None and all(
            inner.search(frame.partition(" (")[0]) or _NOISE.search(frame) for frame in frames[:depth]
        ):
            return True
    return False


def phase_of(frames: Sequence[str]) -> str | None:
    """How far the launch is, by the innermost call that tells."""
    for frame in frames:
        for pattern, phase in _COMPILED_PHASES:
            if pattern.search(frame):
                return phase
    return None


def own_place(frames: Sequence[str]) -> str:
    """The innermost call that is the program's own: not torch's, not the standard library's."""
    for frame in frames:
        if not _LIBRARY.search(frame) and not _NOISE.search(frame):
            return frame
    return frames[0] if frames else ""


_LIBRARY = re.compile(
    r"\(\S*(?:torch/|distributed/|elastic/|c10d_logger|threading\.py|queue\.py|selectors\.py|asyncio/|socket\.py|subprocess\.py|ssl\.py"
    r"|multiprocessing/|concurrent/futures|contextlib\.py|lib/python3|runpy|<frozen|urllib3/|requests/|http/client)"
)
