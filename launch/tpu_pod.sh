#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: asks for a queued resource and waits for it, installs this checkout on all workers, trains,
# and after each preemption asks again and goes on from the last checkpoint. Needs gcloud and leave to use TPUs.
#
#   export TPU_NAME=nuner ZONE=us-west4-a ACCELERATOR=v5litepod-256 RUNTIME=v2-alpha-tpuv5-lite
#   export MOUNT='mountpoint -q /mnt/nuner || sudo mount --mkdir 10.0.0.2:/share /mnt/nuner'
#   launch/tpu_pod.sh --config paper/nuner_base_v5e-256 --data.path /mnt/nuner/data --workdir /mnt/nuner/runs/base
#   launch/tpu_pod.sh delete
#
# MOUNT is run on each worker before training, perhaps several times: data and run directory have to lie on storage that all
# workers share and where renaming a folder is atomic (Filestore; through gcsfuse only a bucket with hierarchical namespace). The slice
# stays until `delete`.
# SPOT=1 takes spot capacity; PROJECT and NETWORK override gcloud's defaults.
# Ends with 0 (done), 2 (bad input), 3 (does not fit), or the status of a run that failed, or 1 if the slice was refused, MAX_FAILURES times
# in a row.
set -euo pipefail

: "${TPU_NAME:?name of the queued resource and of its node}" "${ZONE:?zone, such as us-west4-a}"
MOUNT=${MOUNT:-true}
POLL_SECONDS=${POLL_SECONDS:-30}
MAX_FAILURES=${MAX_FAILURES:-3}
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
log=$(mktemp)
trap 'rm -f "$log" "$log.tar.gz"' EXIT

state() {
    gcloud compute tpus queued-resources describe "$TPU_NAME" "${where[@]}" --format='value(state.state)' 2>/dev/null || true
}

create() {
    : "${ACCELERATOR:?such as v5litepod-256}" "${RUNTIME:?such as v2-alpha-tpuv5-lite}"
    gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" "${where[@]}" \
        --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" \
        ${SPOT:+--spot} ${NETWORK:+--network="$NETWORK"}
}

delete() {
    gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force --quiet
}

# Returns when the slice is there; nothing is installed on one that had to be asked for.
wait_until_active() {
    local now before="" refused=0
    while :; do
        now=$(state)
        [ "$now" = "$before" ] || echo "queued resource $TPU_NAME: ${now:-not there}"
        before=$now
        case $now in
            "")
                if create; then
                    installed=""
                else
                    refused=$((refused + 1))
                    [ "$refused" -lt "$MAX_FAILURES" ] || exit 1
                    sleep "$POLL_SECONDS"
                fi
                ;;
            ACTIVE) return ;;
            FAILED | SUSPENDED) delete || sleep "$POLL_SECONDS" ;;
            *) sleep "$POLL_SECONDS" ;;
        esac
    done
}

on_all_workers() {
    gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all --command="$1"
}

# The commit that is checked out here, in a Python of its own: the images bring an older one.
install() {
    git -C "$(dirname "$0")/.." archive --format=tar.gz --prefix=nuner_jax/ -o "$log.tar.gz" HEAD
    gcloud compute tpus tpu-vm scp "$log.tar.gz" "$TPU_NAME:nuner_jax.tar.gz" "${where[@]}" --worker=all
    on_all_workers 'tar xzf nuner_jax.tar.gz && pip install -q --user uv && ~/.local/bin/uv venv -q --allow-existing -p 3.11 nuner &&
        ~/.local/bin/uv pip install -q -p nuner "./nuner_jax[tpu]"'
}

if [ "${1:-}" = delete ]; then
    delete
    exit
fi

installed=""
failures=0
arguments=$(printf '%q ' "$@" --distributed.kind=auto)
while :; do
    wait_until_active
    if [ -z "$installed" ]; then
        if ! install; then
            failures=$((failures + 1))
            [ "$failures" -lt "$MAX_FAILURES" ] || exit 1
            sleep "$POLL_SECONDS"
            continue
        fi
        installed=1
    fi
    # The workers' own statuses come back in the output: ssh's status only tells whether all of them could be reached.
    on_all_workers "{ $MOUNT; } && nuner/bin/python -m nuner_jax.train $arguments; echo nuner_status=\$?" \
        2>&1 | tee "$log" || true
    mapfile -t statuses < <(grep -o 'nuner_status=[0-9]*' "$log" | cut -d= -f2 | sort -nu)
    case " ${statuses[*]:-lost} " in
        " 0 ") exit 0 ;;
        *" 2 "*) exit 2 ;;
        *" 3 "*) exit 3 ;;
        " 75 " | " 0 75 ") failures=0 ;;
        *) failures=$((failures + 1)) ;;
    esac
    echo "training ended with status ${statuses[*]:-unknown}; going on from the last checkpoint"
    sleep "$POLL_SECONDS"
    [ "$(state)" = ACTIVE ] || failures=0 # the slice was taken away, nothing failed
    last=${statuses[*]:-1}
    [ "$failures" -lt "$MAX_FAILURES" ] || exit "${last##* }"
done
