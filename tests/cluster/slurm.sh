#!/usr/bin/env bash
# A real Slurm of one node for the tests, on Debian or Ubuntu, as root and without systemd. It replaces /etc/slurm.
#
#   tests/cluster/slurm.sh start            install what is missing, configure, start; nothing to do if it is up
#   tests/cluster/slurm.sh stop             stop all of it
#   tests/cluster/slurm.sh stop-controller  stop slurmctld only: an outage; `start` ends it
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

fail() { echo "slurm.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "only root can start Slurm"
command -v apt-get >/dev/null || fail "needs Debian or Ubuntu (apt-get)"

MUNGED=/run/munge/munged.pid SLURMCTLD=/run/slurmctld.pid SLURMD=/run/slurmd.pid LOG=/var/log/slurm

runs() { # runs PIDFILE: its process is alive, and is the one that the file is named after
    [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$(basename "$1" .pid)" ]
}

stop() { # stop PIDFILE
    runs "$1" || return 0
    local pid; pid=$(cat "$1")
    kill "$pid"
    for _ in $(seq 150); do
        [ -d "/proc/$pid" ] || { rm -f "$1"; return 0; }
        sleep 0.2
    done
    fail "process $pid ($(basename "$1" .pid)) does not stop"
}

install_packages() {
    { command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; } >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
}

start_munge() {
    munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
    if [ ! -s /etc/munge/munge.key ]; then
        (umask 077; head -c 128 /dev/urandom >/etc/munge/munge.key)
        chown munge:munge /etc/munge/munge.key
    fi
    install -d -o munge -g munge /run/munge
    runuser -u munge -- munged
}

# Memory limits by cgroup v1 where it can be written; elsewhere Slurm looks every second.
memory_limits() {
    local probe
    for controller in memory freezer; do
        probe=/sys/fs/cgroup/$controller/probe.$$
        if ! { [ -e "/sys/fs/cgroup/$controller/tasks" ] && mkdir "$probe" 2>/dev/null && rmdir "$probe"; }; then
            cat <<CONF
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
CONF
            return
        fi
    done
    printf '%s\n' ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup JobAcctGatherType=jobacct_gather/none
}

configure() { # 0 if the files were written anew
    local host memory new
    host=$(hostname -s)
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.85)}' /proc/meminfo)
    # Two CPUs more than there are, for jobs that only wait. Two pretended GPUs: Slurm wants character devices. Finished jobs
    # stay listed for an hour, since there is no accounting.
    new=$(cat <<CONF
ClusterName=nonsmooth
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=slurm
SlurmdUser=root
SlurmctldPidFile=$SLURMCTLD
SlurmdPidFile=$SLURMD
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc=$LOG/jobs.log
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
KillWait=15
MinJobAge=3600
$(memory_limits)
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(($(nproc) + 2)) RealMemory=$memory Gres=gpu:2
PartitionName=main Nodes=$host Default=YES DefaultTime=10 MaxTime=INFINITE
CONF
)
    [ "$new" != "$(cat /etc/slurm/slurm.conf 2>/dev/null)" ] || return 1
    install -d /etc/slurm
    install -d -o slurm -g slurm $LOG /var/lib/slurm /var/lib/slurm/slurmctld /var/lib/slurm/slurmd
    printf '%s\n' "$new" >/etc/slurm/slurm.conf
    echo "NodeName=$host Name=gpu File=/dev/null,/dev/zero" >/etc/slurm/gres.conf
    printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup ConstrainRAMSpace=yes >/etc/slurm/cgroup.conf
}

start() {
    install_packages
    start_munge
    if configure; then
        stop $SLURMCTLD
        stop $SLURMD
        # The state of a cluster of another name is refused; without it Slurm counts jobs from 1 again.
        rm -rf /var/lib/slurm/slurmctld/* $LOG/jobs.log
    fi
    runs $SLURMCTLD || slurmctld
    runs $SLURMD || slurmd
    for _ in $(seq 150); do
        case $(sinfo --noheader --format %T 2>/dev/null) in
            idle | mixed | allocated | completing) sinfo --noheader --format "Slurm is up: %c CPUs, %m MB, %G"; return ;;
            down* | drain*) scontrol update nodename="$(hostname -s)" state=resume 2>/dev/null || true ;;
        esac
        sleep 0.2
    done
    tail -n 20 $LOG/slurmctld.log $LOG/slurmd.log >&2 || true
    fail "the node does not come up"
}

case ${1:-} in
    start) start ;;
    stop) stop $SLURMCTLD; stop $SLURMD; stop $MUNGED ;;
    stop-controller) stop $SLURMCTLD ;;
    *) fail "start, stop or stop-controller?" ;;
esac
