#!/bin/sh
# diag run on every node of a Ray cluster, through Ray itself: works while a job holds all CPUs and GPUs.
#   ./ray.sh                      on a node of the cluster
#   ./ray.sh HEAD:6379            from anywhere that reaches the head's GCS port
# Ray's workers must be able to import diag: pip install launch-diag in their image, or once for this run with
#   ray job submit --runtime-env-json '{"pip": ["launch-diag"]}' -- diag run --ray auto
exec diag run --ray "${1:-auto}" --out diag-ray
