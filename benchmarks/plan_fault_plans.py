"""Sound plans of our own, of kinds that are rare in repositories. Used by `plan_fault_seeds.py`."""

TWO_NODES = """#!/bin/bash
# run on both nodes
export NCCL_SOCKET_IFNAME=eth0
export GLOO_SOCKET_IFNAME=eth0
ssh node0 "python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 16 --nnodes 2 --node-rank 0 --dist-init-addr 10.0.0.1:20000 --trust-remote-code --port 30000" &
ssh node1 "python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 16 --nnodes 2 --node-rank 1 --dist-init-addr 10.0.0.1:20000 --trust-remote-code --port 30000" &
wait
"""
PD_SCRIPT = """#!/bin/bash
MODEL=meta-llama/Llama-3.1-8B-Instruct
CUDA_VISIBLE_DEVICES=0 VLLM_NIXL_SIDE_CHANNEL_PORT=5600 vllm serve $MODEL --port 8100 \\
  --max-model-len 8192 --block-size 64 --gpu-memory-utilization 0.85 \\
  --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_producer"}' &
CUDA_VISIBLE_DEVICES=1 VLLM_NIXL_SIDE_CHANNEL_PORT=5601 vllm serve $MODEL --port 8200 \\
  --max-model-len 8192 --block-size 64 --gpu-memory-utilization 0.85 \\
  --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_consumer"}' &
wait
"""
COMPOSE = """services:
  vllm:
    image: vllm/vllm-openai:v0.11.0
    command: --model Qwen/Qwen2.5-32B-Instruct --tensor-parallel-size 4 --max-model-len 16384 --port 8000
    ports:
      - "8000:8000"
    shm_size: 16g
    environment:
      NCCL_DEBUG: INFO
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 4
              capabilities: [gpu]
  embed:
    image: vllm/vllm-openai:v0.11.0
    command: --model BAAI/bge-m3 --port 8001 --gpu-memory-utilization 0.3
    ports:
      - "8001:8001"
    shm_size: 8g
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              capabilities: [gpu]
"""
LWS = """apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: sglang
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
          - name: sglang
            image: lmsysorg/sglang:v0.5.5
            command:
              - python3
              - -m
              - sglang.launch_server
              - --model-path
              - deepseek-ai/DeepSeek-R1
              - --tp
              - "16"
              - --dist-init-addr
              - $(LWS_LEADER_ADDRESS):20000
              - --nnodes
              - $(LWS_GROUP_SIZE)
              - --node-rank
              - $(LWS_WORKER_INDEX)
              - --trust-remote-code
              - --port
              - "30000"
            resources:
              limits:
                nvidia.com/gpu: "8"
                memory: 900Gi
            volumeMounts:
              - mountPath: /dev/shm
                name: dshm
        volumes:
          - name: dshm
            emptyDir:
              medium: Memory
              sizeLimit: 64Gi
"""
DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 1
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          args:
            - --model=meta-llama/Llama-3.3-70B-Instruct
            - --tensor-parallel-size=4
            - --max-model-len=32768
            - --port=8000
          env:
            - name: VLLM_LOGGING_LEVEL
              value: INFO
          ports:
            - containerPort: 8000
          startupProbe:
            httpGet:
              path: /health
              port: 8000
            periodSeconds: 10
            failureThreshold: 180
          livenessProbe:
            httpGet:
              path: /health
              port: 8000
            periodSeconds: 10
            failureThreshold: 3
          resources:
            limits:
              nvidia.com/gpu: 4
              memory: 200Gi
            requests:
              nvidia.com/gpu: 4
              memory: 200Gi
          volumeMounts:
            - name: dshm
              mountPath: /dev/shm
          envFrom:
            - secretRef: {name: hf-token}
      volumes:
        - name: dshm
          emptyDir: {medium: Memory, sizeLimit: 16Gi}
"""
BATCH = """#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
export NCCL_SOCKET_IFNAME=ib0
export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
srun torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR:29500 \\
  pretrain_gpt.py --tensor-model-parallel-size 8 --pipeline-model-parallel-size 2 \\
  --num-layers 48 --hidden-size 8192 --num-attention-heads 64 --micro-batch-size 1 --global-batch-size 512
"""
TRTLLM = """# trtllm-serve --extra_llm_api_options
tensor_parallel_size: 8
moe_expert_parallel_size: 8
enable_attention_dp: true
max_batch_size: 64
max_num_tokens: 8192
max_seq_len: 9216
kv_cache_config:
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.8
  dtype: fp8
moe_config:
  backend: DEEPGEMM
cuda_graph_config:
  enable_padding: true
cache_transceiver_config:
  backend: UCX
  max_tokens_in_buffer: 9216
"""
DOCKER = """#!/bin/bash
docker run --rm --gpus all --network host --ipc=host \\
  -v $HOME/.cache/huggingface:/root/.cache/huggingface \\
  vllm/vllm-openai:v0.11.0 \\
  --model Qwen/Qwen2.5-72B-Instruct-AWQ --tensor-parallel-size 2 --max-model-len 16384 --port 8000
"""
RAYSERVICE = """apiVersion: ray.io/v1
kind: RayService
metadata:
  name: serve-llm
spec:
  serveConfigV2: |
    applications:
      - name: llms
        import_path: ray.serve.llm:build_openai_app
        route_prefix: "/"
        args:
          llm_configs:
            - model_loading_config:
                model_id: qwen2.5-7b-instruct
                model_source: Qwen/Qwen2.5-7B-Instruct
              engine_kwargs:
                dtype: bfloat16
                max_model_len: 8192
                tensor_parallel_size: 2
              deployment_config:
                autoscaling_config:
                  min_replicas: 1
                  max_replicas: 1
  rayClusterConfig:
    rayVersion: "2.46.0"
    headGroupSpec:
      rayStartParams: {num-cpus: "0"}
      template:
        spec:
          containers:
            - name: ray-head
              image: rayproject/ray-llm:2.46.0-py311-cu124
              resources:
                limits: {cpu: 4, memory: 8Gi}
    workerGroupSpecs:
      - replicas: 1
        minReplicas: 1
        maxReplicas: 1
        groupName: gpu
        rayStartParams: {}
        template:
          spec:
            containers:
              - name: ray-worker
                image: rayproject/ray-llm:2.46.0-py311-cu124
                resources:
                  limits: {cpu: 16, memory: 64Gi, nvidia.com/gpu: 2}
"""
VARIABLES = """#!/bin/bash
CMD="vllm"
ARGS="--tensor-parallel-size 2 --max-model-len 16384"
SERVE="python3 -m sglang.launch_server"
$CMD serve Qwen/Qwen2.5-14B-Instruct $ARGS --port 8000 &
CUDA_VISIBLE_DEVICES=4,5 $SERVE --model-path Qwen/Qwen2.5-14B-Instruct --tp 2 --port 30000 &
wait
"""
