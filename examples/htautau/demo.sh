#!/usr/bin/env bash
# The quick start of the README: read, train with two frameworks, serve, predict. Run it with: make demo
set -euo pipefail
cd "$(dirname "$0")/../.."

data=examples/htautau
port=${PORT:-8083}
url=http://localhost:$port

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

stop_server() {
    if [ -n "${server:-}" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
}
trap stop_server EXIT

mkdir -p demo
run ./reader.py --fin=$data/ggH.root --info --verbose=1 --nevts=2000
for framework in keras pytorch; do
    run ./workflow.py --files=$data/files.txt --labels=$data/labels.txt --model=ex_$framework.py \
        --params=$data/params.json --fout=demo/$framework
done

printf '\n$ %s\n' "./tfaas_server.py --models-dir=demo/tfaas_models --port=$port &"
./tfaas_server.py --models-dir=demo/tfaas_models --port="$port" 2>demo/server.log &
server=$!
until grep -q ready demo/server.log; do
    if ! kill -0 "$server" 2>/dev/null; then
        cat demo/server.log >&2
        echo "  use another port: make demo PORT=8084" >&2
        exit 1
    fi
    sleep 0.1
done
cat demo/server.log

for framework in keras pytorch; do
    run ./tfaas_client.py --url=$url --upload=demo/$framework/upload.json
done
run ./tfaas_client.py --url=$url --models
for framework in keras pytorch; do
    run ./tfaas_client.py --url=$url --predict=demo/$framework/example.json
done
stop_server

auc() {
    python3 -c 'import json, sys; print("{auc:.4f} +- {auc_uncertainty:.4f}".format(**json.load(open(sys.argv[1]))["test"]))' "$1"
}

printf '\nDone. The scores are the probability of %s; the true label is printed beside each.\n' "$(tail -n 1 demo/keras/labels.txt)"
for framework in keras pytorch; do
    printf '%-8s AUC %s on the test set, report demo/%s/report.html, bundle demo/%s\n' \
        $framework "$(auc demo/$framework/metrics.json)" $framework $framework
done
