#!/bin/sh
# diag run on every host named on the command line, the first one being the master:
#   ./pdsh.sh gpu01 gpu02 gpu03
# Needs pdsh and ssh, and diag under the same path everywhere. %n is pdsh's number of the host, from 0.
master=$1
hosts=$(echo "$*" | tr ' ' ,)
exec pdsh -R ssh -f "$#" -w "$hosts" "diag run --nnodes $# --node-rank %n --master $master:29511 --out /tmp/diag --quiet"
