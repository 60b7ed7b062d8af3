"""What every launch's log may say, whatever the cause: phases, signs of life, signs of death.

Each row: (phase or kind, edge, expression). Taken from the programs' sources; the strings are their own.
Edges: `begin` and `end` bracket a phase, `in` says that the phase is under way.
"""

from __future__ import annotations

from diag.model import Phase

_P = Phase

PHASES: tuple[tuple[Phase, str, str], ...] = (
    (
        _P.ARGUMENTS,
        "begin",
        r"vLLM API server version|non-default args: |server_args=ServerArgs|args: Namespace\(",
    ),
    (
        _P.ARGUMENTS,
        "begin",
        r"Running dynamo serve with|Initializing an? (?:V1 )?LLM engine|Starting elastic_operator|torchrun --",
    ),
    (
        _P.RENDEZVOUS,
        "begin",
        r"Init torch distributed begin|distributed_init_method=|init_process_group\b.*(?:begin|start)",
    ),
    (
        _P.RENDEZVOUS,
        "begin",
        r"> initializing torch distributed|Initializing TorchBackend|Initializing distributed|Distributed environment: ",
    ),
    (
        _P.RENDEZVOUS,
        "end",
        r"Init torch distributed ends|Rendezvous complete|\brestart_count=[1-9]|initialize_model_parallel|distributed_backend=nccl",
    ),
    (
        _P.COMMUNICATOR,
        "begin",
        r"NCCL INFO Bootstrap ?: Using|- Init START|vLLM is using nccl==|sglang is using nccl==|NCCL version \d",
    ),
    (
        _P.COMMUNICATOR,
        "end",
        r"- Init COMPLETE|is assigned as DP rank|Connected all rings|Connected all trees",
    ),
    (
        _P.WEIGHTS,
        "begin",
        r"Starting to load model|Load weight begin|Loading model weights|Loading (?:safetensors|pt|np_cache) checkpoint shards: +0%",
    ),
    (
        _P.WEIGHTS,
        "in",
        r"Loading (?:safetensors|pt) checkpoint shards|Loading checkpoint shards|Multi-thread loading shards|Loading weights from",
    ),
    (
        _P.WEIGHTS,
        "end",
        r"Loading (?:model )?weights took|Load weight end|[Mm]odel loading took|Loading (?:safetensors|pt) checkpoint shards: 100%",
    ),
    (
        _P.PROFILING,
        "in",
        r"Memory profiling (?:takes|results)|Initial free memory|Encoder cache will be initialized|Profiling",
    ),
    (
        _P.KV_CACHE,
        "in",
        r"Available KV cache memory|# GPU blocks: |GPU KV cache size|Maximum concurrency for|KV Cache is allocated|Memory pool end",
    ),
    (
        _P.COMPILE,
        "begin",
        r"Using cache directory: .*torch_compile_cache|Dynamo bytecode transform time|Cache the graph|Compiling a graph|Start compil",
    ),
    (_P.COMPILE, "end", r"torch\.compile takes|Compilation finished|torch\.compile took"),
    (
        _P.GRAPH_CAPTURE,
        "begin",
        r"Capturing the model for CUDA graphs|Capture cuda graph begin|Capturing (?:the model for )?CUDA graphs?|Capturing cudagraphs",
    ),
    (
        _P.GRAPH_CAPTURE,
        "in",
        r"Capturing CUDA graph shapes|Capturing CUDA graphs? \(|Capturing batches|CUDA graphs can take additional",
    ),
    (
        _P.GRAPH_CAPTURE,
        "end",
        r"Graph capturing finished|Capture cuda graph end|init engine \(profile, create kv cache, warmup model\) took",
    ),
    (
        _P.SERVING,
        "begin",
        r"Application startup complete|Uvicorn running on|The server is fired up and ready|Starting vLLM API server|Server started",
    ),
    (
        _P.SERVING,
        "in",
        r"Avg (?:prompt|generation) throughput|(?:Decode|Prefill) batch[.,]|Prefilling locally|Added request |Received request ",
    ),
    (
        _P.SERVING,
        "in",
        r"[{\[(\s]'?\"?(?:train[_/])?loss'?\"?\]?\s*[:=]\s*['\"]?-?\d|lm loss: |\bloss[ :=]+\d",
    ),
    (
        _P.SHUTDOWN,
        "in",
        r"\[shutdown\] |Shutting down|Finished server process|Destroying process group|Gracefully stopping|received signal|Received SIGTERM",
    ),
    (
        _P.RENDEZVOUS,
        "end",
        r"using world size: \d+|> initialized tensor model parallel with size|> setting random seeds to|All distributed processes registered",
    ),
    (
        _P.WEIGHTS,
        "begin",
        r"building (?:GPT|T5|BERT|Mamba) model|loading (?:release |distributed )?checkpoint from|number of parameters on \(tensor",
    ),
    (_P.SERVING, "begin", r"^Device set to use (?:cuda|cpu|mps|xpu|npu)"),
    (
        _P.SERVING,
        "begin",
        r"before the start of training step|\*{5} Running training \*{5}|Beginning training loop|Starting training loop|done with setup \.\.\.",
    ),
)
"""Phases of a launch."""

ALIVE: tuple[str, ...] = (
    r"Application startup complete|Uvicorn running on|The server is fired up and ready",
    r"init engine \(profile, create kv cache, warmup model\) took|Started (?:HTTPService|GRPCInferenceService) at",
    r"Avg generation throughput: (?:0\.[1-9]|[1-9])",
    r"gen throughput \(token/s\): (?:0\.0?[1-9]|[1-9])",
    r"(?:POST|GET) \S+ HTTP/1\.[01]\"? (?:\[?200|2\d\d|4\d\d )",
    r"\*{5} (?:train|eval|predict|test)\w* metrics \*{5}|Final (?:validation|test|eval\w*|train\w*) metrics|\bstep:\d+ - \S+:",
    r"[{\[(\s,]'?\"?(?:train[_/]|lm[ _]|avg[_ ]?|mean[_ ]|val[_/ ])?loss'?\"?\]?\s*[:=]\s*['\"]?-?\d",
    r"\b[Ss]tep[ :=]+\d+(?: ?/ ?\d+)?\b.{0,40}\bloss[ :=]+\d",
    r"should_commit=True .{0,60}errored=None",  # torchft: a quorum that heals
    r"\b[Ii]ters?: \d+,|\d epochs completed in \d",
    r"# Out of bounds values : 0 OK|\bLoss +\d[\d.]*(?:e[+-]?\d+)? +\(",
    r"[Tt]raining (?:completed|complete|finished|done)|TrainOutput\(|`Trainer\.fit` stopped: `max_(?:steps|epochs)",
    r"ll ranks finished|ob completed successfully|[Ff]inished successfully|succeeded in \d|completed successfully",
    r"Successfully (?:joined|connected|started|preempted|saved)|Saved checkpoint|saving checkpoint at iteration|checkpoint saved",
    r"iteration +\d+/ *\d+ \||(?:images|samples|examples)/s(?:ec)?\b\W{1,3}[1-9]|[1-9][\d.]* ?(?:images|samples|examples)/s(?:ec)?\b",
    r"\bTrain Epoch: \d+ \[|\bEpoch:? ?\[\d+\] ?\[ *\d+/ *\d+\]|\b(?:Test|Evaluation|Epoch: \[\d+\]) +\[ *\d+/ *\d+\] +eta: ",
    r"router/src/server\.rs:\d+: Connected$|exited cleanly|\bexited with 0\b|\(rc=0\)",
    r"exits successfully|exited with code 0|exit code 0\b|\bexit status:? 0\b|state COMPLETED|COMPLETED \(exit code 0\)",
)
"""Signs that the launch works: what went before did not stop it."""

DEAD: tuple[str, ...] = (
    r"ChildFailedError|failed \(exitcode: ?-?\d+\)|Sending process \d+ closing signal|exitcode +: -?[1-9]",
    r"ngine core initialization failed|EngineCore failed to start|EngineDeadError|EngineCore encountered a fatal error",
    r"WorkerProc initialization failed|Worker proc \S+ died|died with exit code|died unexpectedly|exited unexpectedly|WorkerProc hit an exception",
    r"exit(?:ed)? (?:with )?(?:code|status)[: =]*-?[1-9]|exit_code=[1-9]|Exit code: [1-9]|returned non-zero exit status|exits with return code = -?[1-9]",
    r"srun: error: |slurmstepd: error: +(?:\*\*\*|[A-Z]|execve|mpi/|task|pmi|exec)|CANCELLED AT|mpirun noticed that|MPI_ABORT was invoked|Primary job  terminated normally, but",
    r"terminate called|\(core dumped\)|Segmentation fault|[Ff]atal Python error|Aborted\b.{0,12}$|panicked at",
    r"oom-kill|Killed process \d+|OOMKilled|\bKilled\b|Received sigquit from a child process",
    r"ActorDiedError|RayActorError|The actor died|RaySystemError|WorkerCrashedError|actor is dead",
    r"CrashLoopBackOff|BackOff|Back-off restarting|KeyboardInterrupt|SIGTERM|SignalException|Received SIGINT",
    r"Watchdog caught collective operation timeout|To avoid data inconsistency, we are taking the entire process down",
    r"torch\.distributed\.DistBackendError|DistStoreError|DistNetworkError",
    r": error: (?:unrecognized arguments|the following arguments are required|ambiguous option|argument \S{1,60}: )",
    r"MPI_ERRORS_ARE_FATAL|Cannot find primary config|execvp error on file|died from signal \d+|: line \d+: +\d+ (?:Hangup|Terminated|Aborted|Bus error)\b|Out of bounds values : [1-9]\d* FAILED",
)
"""Signs that a process of the launch ended badly."""

FAILURE: tuple[str, ...] = (
    r"Traceback \(most recent call last\)",
    r"\b[A-Z]\w*(?:Error|Exception)\b: ",
    r"\b(?:ERROR|FATAL|CRITICAL)\b",
    r"NCCL WARN ",
    r"[Ff]atal error|FATAL ERROR|fatal: ",
    r"panicked at|terminate called|Segmentation fault|core dumped|Bus error",
    r"NVRM: Xid|SXid",
    r"\berror: |\bError: ",
    r"failed to |Failed to ",
    r"\b(?:[Aa]borting|[Gg]iving up|[Gg]ave up|[Bb]ailing out|[Cc]annot continue|[Cc]an't continue|[Qq]uitting|[Ee]xiting)\b",
)
"""Anything that looks like a failure, for the answer where no playbook fits."""

DETOURS = r"\b[Ff]alling back to\b|\b[Ff]alling back on\b"
"""A program takes another way, and says so a few lines below what it could not do."""

OWN_WORDS = ("2", "9")
"""Numbers of the rows of FAILURE that a user's own program may write before it leaves: a logger's level, giving up."""

EXITS: tuple[str, ...] = (
    r"srun: error: (?P<host>[\w.-]+): task (?P<rank>\d+): (?:Exited|Killed|Out Of Memory|Segmentation|Aborted|Bus error|Floating)",
    r"(?:mpirun|mpiexec|orterun)\S* noticed that process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) exited",
    r"prterun\S* noticed that process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) exited",
    r"^(?P<host>[\w.-]+): rank (?P<rank>\d+) died from signal \d+",
    r"Process name: \[(?:\[\d+,\d+\],|\S+@\d+,)(?P<rank>\d+)\]",
    r"MPI_ABORT was invoked on rank (?P<rank>\d+)",
    r"failed \(exitcode: -?\d+\) local_rank: (?P<local_rank>\d+)",
    r"Root Cause \(first observed failure\)",
    r"^ip: (?P<host>\d+\.\d+\.\d+\.\d+)$",
    r"process (?P<rank>\d+) terminated with (?:exit code|signal)|-- Process (?P<rank2>\d+) terminated with the following error",
)
"""Where a launcher says which process ended first: torch elastic (table and line), srun, mpirun, mp.spawn."""

ELASTIC_TABLE = r"host +: (?P<host>\S+)\s+(?:.*\n)?.*?rank +: (?P<rank>\d+) \(local_rank: \d+\)\s+.*?exitcode +: (?P<exit_code>-?\d+)"
"""What follows `Root Cause (first observed failure)`; heads may stand before each line."""

HOSTS: tuple[str, ...] = (
    r"SocketImpl\(fd=\d+, addr=\[(?P<host>[A-Za-z][\w.-]*)\]:\d+",
    r"\*\*\* (?:JOB|STEP) [\d.+]+ ON (?P<host>[\w.-]+) CANCELLED",
    r"Local node IP: (?P<host>[\w.:-]+)",
    r"Running on (?:node|host)[: ]+(?P<host>[A-Za-z][\w.-]*)",
    r"^(?:HOSTNAME|hostname|SLURMD_NODENAME)[=:] ?(?P<host>[A-Za-z][\w.-]*)$",
    r"^Node: +(?P<host>[\w.-]+)/\d",
    r"^[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} [\d:]{8}(?: [AP]M)?(?: UTC 20| GMT 20| CET 20| CEST 20| CST 20| JST 20| EST 20| EDT 20| PST 20| PDT 20)\d\d +(?P<host>[A-Za-z][\w.-]*\d[\w.-]*)$",
)
"""Where a log says on which machine it was written: c10d's own address, Ray, Slurm, kubectl describe, `date` and `hostname` in one line."""

_COMMANDS = (
    r"python|torchrun|vllm|srun|nvidia-smi|docker|kubectl|ray |dmesg|cat |tail |NCCL_|CUDA_|uptime|bash |export |mpirun|"
    r"deepspeed|accelerate|df -h|free |journalctl|systemctl|ls -l|echo |grep |ssh |head |ip (?:-br|a)|ss -|ps aux|ulimit"
)
PLACES: tuple[str, ...] = (
    rf"[$#] (?:sudo )?(?:{_COMMANDS})",
    r":~\$ |:~# |:~/[\w./-]{0,60}[$#] ",
    r"^Name: {6,}[a-z0-9]",
)
"""Prompts and descriptions that tell where the following lines come from; `places.place_of` reads them."""

STATUS = r"echo .{0,40}(?:\$\?|PIPESTATUS\[0\])"
"""A shell is asked for the exit status, which stands alone on the next line."""

JOB_ENDS = r"\*\*\* JOB (?P<job>\d+) ON \S+ CANCELLED AT"
"""Slurm's word on the end of a job: what another job writes into the same file is another run."""

RUN_STARTS: tuple[str, ...] = (
    r"vLLM API server version",
    r"server_args=ServerArgs",
    r"Running dynamo serve with",
    r"torch[/.]distributed[/.]run(?:\.py:\d+\] |: ?)\*{10}|\[runner\.py:\d+:main\] cmd = |^Sender: LSF System",
    r"The following values were not passed to `accelerate launch`|INFO:__main__:\*{10}|WARNING:__main__:\*{10}",
    r"[$#] .{0,200}?(?:torchrun |vllm serve|python3? -m (?:vllm|sglang|torch\.distributed|dynamo)|accelerate launch|deepspeed |mpirun |trtllm-serve|\w+_perf )",
)
"""Where another run begins in the same file."""

FRAMES: tuple[tuple[Phase, tuple[str, ...]], ...] = (
    (
        _P.GRAPH_CAPTURE,
        (
            "capture_model",
            "_capture_cudagraphs",
            "capture_one_batch_size",
            "init_cuda_graphs",
            "cuda_graph_runner",
            "CUDAGraphRunner",
            "init_device_graphs",
            "capture_graph",
            "_capture_graph",
            "cudagraph_utils",
            "_run_cuda_graph_warmup",
            "_capture_generation_cuda_graphs",
        ),
    ),
    (
        _P.PROFILING,
        (
            "profile_run",
            "determine_available_memory",
            "determine_num_available_blocks",
            "_dummy_run",
            "_dummy_sampler_run",
            "profile_num_available_blocks",
            "compile_or_warm_up_model",
            "kernel_warmup",
            "profile_cudagraph_memory",
        ),
    ),
    (
        _P.KV_CACHE,
        (
            "initialize_kv_cache",
            "_initialize_kv_caches",
            "initialize_cache",
            "initialize_from_config",
            "_allocate_kv_cache",
            "allocate_kv_cache_tensors",
            "raise_if_cache_size_invalid",
            "get_kv_cache_config",
            "check_enough_kv_cache_memory",
            "init_memory_pool",
            "_create_buffers",
            "allocate_kv_cache",
            "allocate_gpu_cache",
            "init_cache_engine",
        ),
    ),
    (
        _P.WEIGHTS,
        (
            "load_model",
            "load_weights",
            "make_layers",
            "create_weights",
            "_initialize_model",
            "initialize_model",
            "process_weights_after_loading",
            "from_pretrained",
            "get_model",
            "load_checkpoint",
            "load_state_dict",
            "load_and_initialize_model",
            "init_model",
            "_load_model",
        ),
    ),
    (
        _P.RENDEZVOUS,
        (
            "next_rendezvous",
            "rendezvous",
            "_rendezvous_handler",
            "_create_c10d_store",
            "_env_rendezvous_handler",
            "TCPStore",
            "init_distributed_environment",
            "_create_tcp_store",
        ),
    ),
    (
        _P.COMMUNICATOR,
        (
            "initialize_model_parallel",
            "init_worker_distributed_environment",
            "init_process_group",
            "ncclCommInitRank",
            "new_group",
            "init_torch_distributed",
            "init_device",
            "_new_process_group_helper",
            "ensure_model_parallel_initialized",
        ),
    ),
    (
        _P.SERVING,
        (
            "execute_model",
            "forward_batch",
            "run_engine_loop",
            "run_busy_loop",
            "training_step",
            "backward",
            "train_step",
            "event_loop_overlap",
            "event_loop_normal",
            "inner_training_loop",
            "_inner_training_loop",
            "optimizer_step",
            "update_policy",
            "update_actor",
            "_forward_micro_batch",
            "compute_log_prob",
            "train_batch",
            "training_epoch",
            "compute_loss",
        ),
    ),
    (
        _P.ARGUMENTS,
        (
            "parse_args",
            "create_engine_config",
            "create_model_config",
            "__post_init__",
            "from_cli_args",
            "validate_args",
            "prepare_server_args",
            "make_arg_parser",
        ),
    ),
)
"""Functions (or files) in a traceback that tell the phase, the most telling first."""
