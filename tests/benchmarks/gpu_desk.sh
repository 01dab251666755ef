#!/bin/bash
# Train the desk models, two seeds of each side by side on one GPU, in a given number of seconds.
#
#     tests/benchmarks/gpu_desk.sh OUT SECONDS
#
# From the root of a checkout. OUT gets tars of the trained models and of the logs. Where .whl/ lies
# in the checkout (a machine without registries), its wheels are installed beside it first.
# The configs are those of one CPU core; MORE_GENERATOR and MORE_SEMANTIC are options beside them, by
# default the sizes of a GPU. Fifteen steps of all four were seen on an H200; a whole run was not.
# To try it: VIEWS_OF names other scenes, HOW=--no-compile leaves compilation out.
set -u
out=$(realpath "$1"); seconds=$2; root=$PWD
cores=$(env -u OMP_NUM_THREADS nproc)  # which obeys that variable, exported below
large="--steps 30000 --warmup 300 --ema 0.999 --heads 6 --ffn-dim 576 --save-every 5000 --log-every 100"
MORE_GENERATOR=${MORE_GENERATOR:-"$large --layers 10 --views-a-step 320 --lr 1.2e-3 --cooldown 4000
    --probe-every 1000 --decoder-steps 1500 --crops 32"}
MORE_SEMANTIC=${MORE_SEMANTIC:-"$large --hidden 192 --batch 256 --lr 1e-3 --cooldown 2000 --probe-every 500"}
scenes=${VIEWS_OF:-"rooms:4000?views=10&height=128&width=160&seed=101"}
desk=pipeline/backbones/desk
work=$(mktemp -d)
free_kb=$(df --output=avail /dev/shm 2>/dev/null | tail -1)
if [ "${free_kb:-0}" -gt 16000000 ]; then rmdir "$work"; work=$(mktemp -d -p /dev/shm); fi
mkdir -p "$out" "$work/site/vega3d" "$work/log"
tell() { echo "[$SECONDS s] $*" | tee -a "$work/log/script.log"; }
minutes() { awk "BEGIN { print ($1) / 60 }"; }  # of seconds

tell "work in $work, $cores cores, $(nvidia-smi -L 2>/dev/null)"
for room in pipeline evaluate train cluster; do ln -s "$root/$room" "$work/site/vega3d/$room"; done
export PYTHONPATH=$work/site PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${THREADS:-2} NUMBA_CACHE_DIR=$work/numba
export TORCHINDUCTOR_CACHE_DIR=$work/inductor
python=${PYTHON:-python3}
printf '%s\n' 'from vega3d.train.cli import main' 'if __name__ == "__main__":' '    main()' \
    > "$work/vega3d-train"
pretrain() { "$python" "$work/vega3d-train" pretrain "$@"; }
render_one='from vega3d.pipeline.scenes.rooms.film import film_room; film_room((9, 0), 1, 64, 64).rgb(0)'
"$python" -c "$render_one" & compiling=$!
if compgen -G '.whl/*.whl' > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --target "$work/site" .whl/*.whl || exit 1
fi
wait $compiling
tell "installed, renderer compiled"

# 1. Rooms, on all cores; meanwhile one process compiles the DiT's blocks for all that come after.
try="rooms:32?views=10&height=128&width=160&seed=101"
# shellcheck disable=SC2086
"$python" "$work/vega3d-train" pretrain generator --config $desk/generator.toml \
    --scenes "$try" --choose "${try/32/2}" --out "$work/try" --compile --steps 16 --decoder-steps 2 --log-every 1 \
    $MORE_GENERATOR > "$work/log/try.log" 2>&1 & trying=$!
pretrain views --cache "$work/views" --workers "$cores" --scenes "$scenes" \
    > "$work/log/views.log" 2>&1 || { cat "$work/log/views.log"; exit 1; }
tell "views: $(tail -1 "$work/log/views.log")"
kill $trying 2> /dev/null
wait $trying
tell "compilation ended with $?"

# 2. Trainings; one that fails as compiled code begins again without.
ends=$((seconds - 15))
train() {  # NAME KIND SEED SHARE-OF-THE-TIME-LEFT WORKERS MORE...
    local name=$1 kind=$2 seed=$3 until=$((SECONDS + (ends - SECONDS) * $4 / 100)) workers=$5
    shift 5
    local how
    for how in ${HOW:---compile --no-compile}; do
        rm -rf "${work:?}/$name"
        pretrain "$kind" --config "$desk/$kind.toml" --out "$work/$name" --seed "$seed" \
            --scenes "$scenes" --cache "$work/views" --workers "$workers" --threads "${THREADS:-2}" "$how" \
            --max-minutes "$(minutes "$until - $SECONDS")" "$@" > "$work/log/$name$how.log" 2>&1
        local code=$?
        tell "$name $how: exit $code, $(tail -c 400 "$work/log/$name$how.log" | tail -1)"
        if [ $code = 0 ]; then return; fi
    done
}
(while :; do nvidia-smi --query-gpu=utilization.gpu,memory.used,power.draw --format=csv,noheader
    sleep 5; done) > "$work/log/gpu.csv" 2>&1 & watching=$!
# shellcheck disable=SC2086
{
    train generator-a generator 0 100 4 $MORE_GENERATOR & one=$!
    train semantic-a semantic 0 60 "$cores" $MORE_SEMANTIC & two=$!
    train generator-b generator 1 50 1 --decoder-steps 100 $MORE_GENERATOR & three=$!
    for _ in $(seq 40); do  # the other SigLIP has its phrases to find
        if compgen -G "$work/semantic-a/siglip/*" > /dev/null; then break; fi
        sleep 1
    done
    train semantic-b semantic 1 35 1 $MORE_SEMANTIC & four=$!
}
wait $one $two $three $four
kill $watching

# 3. What comes back: averaged weights in float16, and logs.
cd "$work" || exit 1
for name in generator-a generator-b; do
    tar -cf "$out/$name-transformer.tar" $name/model/transformer
    tar -cf "$out/$name-rest.tar" --exclude=transformer $name/model
done
for name in semantic-a semantic-b; do tar -cf "$out/$name.tar" $name/model; done
tar -czf "$out/logs.tar.gz" log ./*/config.json ./*/*/metrics.jsonl
tell "done"
ls -l "$out"
tail -n 3 log/*.log
rm -rf "$work"
