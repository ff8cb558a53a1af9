# Sourced by the launchers: the compiler's flags for each kind of hardware, and how a command is shown and run.
#
# The flags let transfers hide behind computation, which XLA leaves off by default, and keep as much of a GPU's memory
# as a run may need.

# shellcheck disable=SC2034 # used by those that source this
gpu_flags="--xla_gpu_enable_latency_hiding_scheduler=true"
tpu_flags="--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true"
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.95}

fail() {
    echo "error: $*" >&2
    exit 1
}

run() { # shows a command, then becomes it
    printf '$'
    printf ' %q' "$@"
    printf '\n'
    exec "$@"
}
