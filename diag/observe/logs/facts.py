"""What a log says about the launch: versions, sizes, hardware, interfaces. They decide between causes and fill fixes.

Row: (dotted fact, expression with one group, kind). The last occurrence in a run wins for `last`, the first for
`first`; `set` collects distinct values (several drivers on several nodes are a finding).
"""

from __future__ import annotations

FACTS: tuple[tuple[str, str, str], ...] = (
    ("hardware.driver_version", r"[Dd]river [Vv]ersion\s*[:=]\s*(\d{3}\.\d+(?:\.\d+)?)", "set"),
    (
        "hardware.driver_version",
        r"NVRM version: NVIDIA UNIX .*?Kernel Module.*?  (\d{3}\.\d+(?:\.\d+)?)",
        "set",
    ),
    ("hardware.driver_version", r"cudaDriverVersion \d+.*driver (\d{3}\.\d+(?:\.\d+)?)", "set"),
    ("hardware.cuda_driver_api", r"CUDA Version\s*: *(\d+\.\d+)", "last"),
    ("hardware.nccl_cuda_driver", r"cudaDriverVersion (\d+)", "last"),
    ("hardware.gpu_name", r"GPU \d+: (?:NVIDIA )?([A-Z][\w -]+?)(?: \(UUID|$|,)", "set"),
    (
        "hardware.gpu_name",
        r"(?:NVIDIA|Tesla) ((?:[ABHLTV]\d{1,3}|GB\d00|RTX|GeForce|GH200)[\w -]*?)(?:\s*\||\s+(?:On|Off)\b|,|\)|$)",
        "set",
    ),
    ("hardware.gpu_index", r"GPU (\d+): (?:NVIDIA|Tesla|GeForce|Quadro)", "set"),
    ("hardware.gpu_memory_text", r"total capacity of ([\d.]+ [GM]iB)", "last"),
    (
        "hardware.gpu_free_text",
        r"total capacity of [\d.]+ [GM]iB of which ([\d.]+ [GMK]?i?B) is free",
        "last",
    ),
    ("software.torch", r"PyTorch version: ([\w.+-]+)", "set"),
    ("software.torch_cuda", r"CUDA used to build PyTorch: ([\d.]+)", "last"),
    ("software.cuda_runtime", r"CUDA runtime version: ([\d.]+)", "last"),
    ("software.nccl", r"NCCL version ([\d.]+)", "set"),
    ("software.nccl", r"(?:vLLM|sglang) is using nccl==([\d.]+)", "set"),
    ("software.nccl", r"nvidia-nccl-cu\d+==([\d.]+)", "set"),
    ("software.vllm", r"vLLM API server version ([\w.+]+)", "set"),
    ("software.vllm", r"Initializing an? (?:V1 )?LLM engine \(v([\w.+]+)\)", "set"),
    ("software.vllm", r"vLLM Version: ([\w.+]+)", "set"),
    ("software.sglang", r"sglang(?:==|: ?|\[all\]==)(\d[\w.]+)", "set"),
    ("software.ray", r"\bray==(\d+\.\d+\.\d+)|[Rr]ay version:? ?(\d+\.\d+\.\d+)", "set"),
    ("software.python", r"Python version: ([\d.]+)", "last"),
    ("software.transformers", r"transformers(?:==| version:? ?|_version\"?: \"?)(\d[\w.]+)", "last"),
    ("launch.tensor_parallel_size", r"tensor[-_]parallel[-_]size(?:['\"]?[=:] ?| +)(\d+)", "last"),
    ("launch.tensor_parallel_size", r"\btp_size=(\d+)", "last"),
    ("launch.tensor_parallel_size", r"--tp(?:-size)?[ =](\d+)", "last"),
    ("launch.pipeline_parallel_size", r"pipeline[-_]parallel[-_]size(?:['\"]?[=:] ?| +)(\d+)", "last"),
    ("launch.data_parallel_size", r"data[-_]parallel[-_]size(?:['\"]?[=:] ?| +)(\d+)", "last"),
    ("launch.world_size", r"(?:world[_ ]size[ =:]+|nranks )(\d+)", "last"),
    ("launch.nnodes", r"(?:--nnodes[= ]|num_machines=|nnodes=)(\d+)", "last"),
    ("launch.nproc_per_node", r"(?:--nproc[-_]per[-_]node[= ]|nproc_per_node=)(\d+)", "last"),
    (
        "launch.model",
        r"(?:Starting to load model |model='|model_path='|--model[ =]'?|--model-path[ =]'?|vllm serve )([\w./:-]+?)(?:\.\.\.|['\s]|$)",
        "first",
    ),
    ("launch.gpu_memory_utilization", r"gpu[-_]memory[-_]utilization(?:['\"]?[=:] ?| +)([\d.]+)", "last"),
    ("launch.max_model_len", r"max[-_]model[-_]len(?:['\"]?[=:] ?| +)(\d+)", "last"),
    ("launch.max_model_len", r"Using max model len (\d+)", "last"),
    ("launch.enforce_eager", r"enforce[-_]eager['\"]?[=:] ?(True|False)", "last"),
    ("launch.dtype", r"dtype=(?:torch\.)?(\w+)", "last"),
    ("launch.master_addr", r"(?:MASTER_ADDR[=:] ?|--master[-_]addr[= ]|main_process_ip=)([\w.:-]+)", "last"),
    ("launch.master_port", r"(?:MASTER_PORT[=:] ?|--master[-_]port[= ]|main_process_port=)(\d+)", "last"),
    ("network.nccl_interface", r"NCCL INFO Bootstrap ?: Using \[?\d*\]?([\w.-]+):", "set"),
    ("network.nccl_transport", r"NCCL INFO Using network (\w+)", "set"),
    ("network.socket_ifname", r"NCCL_SOCKET_IFNAME set (?:by environment )?to ([\w.,^=-]+)", "set"),
    ("network.gloo_ifname", r"GLOO_SOCKET_IFNAME[=:] ?'?([\w.-]+)", "set"),
    ("memory.weights_text", r"[Mm]odel loading took ([\d.]+ ?Gi?B)", "last"),
    ("memory.kv_available_text", r"Available KV cache memory: (-?[\d.]+ ?GiB)", "last"),
    ("memory.oom_request_text", r"Tried to allocate ([\d.]+ [GMK]iB)", "last"),
)

FRAMEWORKS: tuple[tuple[str, str], ...] = (
    (
        "dynamo",
        r"dynamo serve|dynamo[._](?:runtime|vllm|sglang|trtllm|llm|run)\b|dynamo-run|DynamoGraphDeployment|VllmDecodeWorker|python3? -m dynamo",
    ),
    ("trtllm", r"\[TRT-LLM\]|\[TensorRT-LLM\]|tensorrt_llm|trtllm-serve"),
    ("sglang", r"sglang|server_args=ServerArgs"),
    ("vllm", r"\bvllm\b|vLLM |EngineCore|VllmWorker"),
    ("deepspeed", r"deepspeed|DeepSpeed"),
    ("megatron", r"megatron"),
    ("lightning", r"pytorch_lightning|lightning\.|LightningModule"),
    ("accelerate", r"accelerate launch|accelerate/commands|accelerator\.prepare"),
    ("nccl-tests", r"nccl-tests|# nThread \d|_perf\b.*-b "),
    ("ray", r"raylet|\bray\.|RayTaskError|ray start"),
    ("torch", r"torchrun|torch\.distributed|torch/distributed"),
)
"""Whose log it is; the first that occurs wins."""
