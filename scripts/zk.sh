#!/usr/bin/env bash
# A real ZooKeeper for tests and demos, from Debian's package, on loopback ports of its own.
#
#   scripts/zk.sh start [standalone|ensemble]   start (or find running), wait until it answers, print host:port,..
#   scripts/zk.sh status                        one line a server; exit status 0 only if all of them answer
#   scripts/zk.sh stop                          end what was started in ZK_DIR; the data stays
#
#   ZK_PORT  first client port, default 23181; an ensemble takes ZK_PORT..+2, and +10..+12 and +20..+22 inside
#   ZK_DIR   configuration, data, log and pid file of each server, default target/zk/ZK_PORT
#   ZK_TICK  tickTime in milliseconds, default 2000; sessions last 2 to 20 ticks
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
port=${ZK_PORT:-23181}
dir=$(realpath -m "${ZK_DIR:-$root/target/zk/$port}")
tick=${ZK_TICK:-2000}
jar=/usr/share/java/zookeeper.jar

fail() { echo "zk.sh: $*" >&2; exit 1; }

install() {
    local want=()
    [ -e "$jar" ] || want+=(zookeeper)
    command -v java >/dev/null || want+=(default-jre-headless)
    [ ${#want[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "needs Debian's packages ${want[*]} (no apt-get here): install $jar and java"
    local as=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || fail "needs Debian's packages ${want[*]}: apt-get install ${want[*]} as root"
        as=(sudo -n)
    fi
    echo "zk.sh: installing ${want[*]} with apt-get (once)" >&2
    local log; log=$(mktemp)
    local apt=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    if ! { "${apt[@]}" install -y --no-install-recommends "${want[@]}" ||
           { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${want[@]}"; }; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "cannot install ${want[*]}"
    fi
    rm -f "$log"
}

# The process of server $1, if it is ours and lives: a recycled process number is not.
pid_of() {
    local pid
    pid=$(cat "$dir/$1/pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$dir/$1/zoo.cfg" && echo "$pid"
}

# True if the server on port $1 serves clients (a member without a quorum answers otherwise).
answers() {
    timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1; printf srvr >&3; grep -q ^Mode: <&3" 2>/dev/null
}

# Writes the configuration of server $1 of $2 and starts it.
launch() {
    local n=$1 of=$2 home=$dir/$1 client=$((port + $1 - 1)) k
    pid_of "$n" >/dev/null && return
    if (exec 3<>"/dev/tcp/127.0.0.1/$client") 2>/dev/null; then
        fail "port $client is in use by another process: set ZK_PORT"
    fi
    mkdir -p "$home/data"
    {
        echo "tickTime=$tick"
        echo "dataDir=$home/data"
        echo "clientPort=$client"
        echo "clientPortAddress=127.0.0.1"
        echo "admin.enableServer=false"
        echo "4lw.commands.whitelist=*"
        echo "maxClientCnxns=0"
        if [ "$of" -gt 1 ]; then
            echo "initLimit=10"
            echo "syncLimit=5"
            for k in $(seq "$of"); do echo "server.$k=127.0.0.1:$((port + 9 + k)):$((port + 19 + k))"; done
            echo "$n" >"$home/data/myid"
        fi
    } >"$home/zoo.cfg"
    setsid nohup java -Xmx200m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$home:$jar:${jar%/*}/slf4j-simple.jar" \
        org.apache.zookeeper.server.quorum.QuorumPeerMain "$home/zoo.cfg" >>"$home/log" 2>&1 </dev/null &
    echo $! >"$home/pid"
}

start() {
    local of n i hosts=
    case $1 in
        standalone) of=1 ;;
        ensemble) of=3 ;;
        *) fail "start: standalone or ensemble, not '$1'" ;;
    esac
    [ ! -e "$dir/servers" ] || [ "$(cat "$dir/servers")" = "$of" ] ||
        ! servers_running || fail "another kind runs in $dir: stop it first"
    install
    mkdir -p "$dir"
    echo "$of" >"$dir/servers"
    for n in $(seq "$of"); do launch "$n" "$of"; done
    for n in $(seq "$of"); do
        for i in $(seq 300); do
            answers $((port + n - 1)) && break
            # In its first second, on a busy machine, it may still be this script's copy and not java.
            [ "$i" -le 10 ] || pid_of "$n" >/dev/null ||
                { grep -E 'Exception|ERROR' "$dir/$n/log" | tail -n 3 >&2 || true; fail "server $n ended; see $dir/$n/log"; }
            [ "$i" -lt 300 ] || fail "server $n does not answer on port $((port + n - 1)); see $dir/$n/log"
            sleep 0.1
        done
        hosts+=${hosts:+,}127.0.0.1:$((port + n - 1))
    done
    echo "$hosts"
}

servers_running() {
    local home
    for home in "$dir"/[0-9]; do pid_of "${home##*/}" >/dev/null && return; done
    return 1
}

status() {
    local n of pid all=0
    of=$(cat "$dir/servers" 2>/dev/null) || { echo "no server in $dir"; return 1; }
    for n in $(seq "$of"); do
        if ! pid=$(pid_of "$n"); then
            echo "server $n: 127.0.0.1:$((port + n - 1)) stopped"; all=1
        elif answers $((port + n - 1)); then
            echo "server $n: 127.0.0.1:$((port + n - 1)) serves, pid $pid"
        else
            echo "server $n: 127.0.0.1:$((port + n - 1)) does not answer, pid $pid"; all=1
        fi
    done
    return $all
}

stop() {
    local home n pid i
    for home in "$dir"/[0-9]; do
        n=${home##*/}
        if pid=$(pid_of "$n"); then
            kill "$pid" 2>/dev/null || true
            kill -CONT "$pid" 2>/dev/null || true # a test may have stopped it
            for i in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
            kill -KILL "$pid" 2>/dev/null || true
        fi
        rm -f "$home/pid"
    done
}

case ${1:-} in
    start) start "${2:-standalone}" ;;
    stop) stop ;;
    status) status ;;
    *) echo "usage: scripts/zk.sh start [standalone|ensemble] | stop | status" >&2; exit 2 ;;
esac
