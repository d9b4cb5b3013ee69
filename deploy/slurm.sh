#!/bin/bash
# A run over the nodes of a Slurm allocation.  From the top of the source tree, which lies where all nodes see it:
#
#   sbatch deploy/slurm.sh run camvid_s4al_plus train.workers=2 query.actors=2 --data DATA --out OUT
#
# What follows the script's name is what follows `s4al`.  The same line continues an interrupted run.
# Change these for your cluster, or give them to sbatch: --partition, --account, --gpus-per-node=1, ...
#SBATCH --job-name=s4al
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

(($#)) || { echo "slurm.sh: what is to be run?  sbatch deploy/slurm.sh run RECIPE --data DATA --out OUT" >&2; exit 2; }
# shellcheck disable=SC1091
source "${S4AL_ENV:-.venv}/bin/activate"

# Ports come from the job's number, and the token is this job's alone: a node may be shared with other jobs.
read -r first _ < <(hostname -I)
export S4AL_HEAD=${S4AL_HEAD:-$first} S4AL_PORT=$((20000 + SLURM_JOB_ID % 12000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

# One Ray node on each node; the first, where this script runs, too, is the head.
# shellcheck disable=SC2016
srun --export=ALL --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
    tmp=/tmp/s4al-$SLURM_JOB_ID-$SLURM_PROCID  # short: the path of a socket has at most 107 characters
    trap "rm -rf $tmp" EXIT
    address=$S4AL_HEAD:$S4AL_PORT
    if ((SLURM_PROCID == 0)); then
        where=(--head --node-ip-address="$S4AL_HEAD" --port="$S4AL_PORT" --include-dashboard=false)
    else
        until ray health-check --address "$address" >/dev/null 2>&1; do sleep 2; done
        where=(--address="$address")
    fi
    trap : TERM  # Slurm tells Ray, too, and this shell waits for it
    ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$tmp" --min-worker-port=0 --max-worker-port=0 \
        --dashboard-agent-listen-port=0 "${where[@]}" >/dev/null
' &
cluster=$!
stop_cluster() {
    kill -TERM "$cluster" 2>/dev/null || true
    wait "$cluster" 2>/dev/null || true
}
trap stop_cluster EXIT

# A signal is passed on to what runs; it ends `wait` here, not that, which may have something to save.
stopped='' ending='' interrupted='' child=''
pass_on() {
    stopped=yes interrupted=yes
    kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM INT
trap 'ending=yes; pass_on' USR1  # two minutes before the time limit
await() {
    child=$1
    while true; do
        interrupted='' status=0
        wait "$child" || status=$?
        [[ $interrupted ]] || break
    done
}

timeout 300 python - "$S4AL_HEAD:$S4AL_PORT" "$SLURM_JOB_NUM_NODES" <<'PYTHON' &
import sys, time, ray
while not ray.is_initialized():
    try:
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError):
        time.sleep(2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
PYTHON
await $!
if [[ $stopped ]]; then
    status=130  # nothing has begun
elif ((status)); then
    echo "slurm.sh: Ray did not start on $SLURM_JOB_NUM_NODES nodes within 300 s; what its nodes said is above" >&2
    status=5
else
    RAY_ADDRESS=$S4AL_HEAD:$S4AL_PORT s4al "$@" &
    await $!
fi

if [[ $ending && $status == 130 ]]; then
    echo "slurm.sh: the time limit has come; job $SLURM_JOB_ID is queued again and goes on there"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
