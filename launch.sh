#!/usr/bin/env bash
# Start Emulsion or run one of its commands. The first run makes a virtual environment and installs into it.
# Kept to what macOS's bash 3.2 understands.
set -euo pipefail

readonly PREFERRED="python3.13 python3.12 python3.11 python3.10 python3 python"
readonly OLDEST=10 # Python 3.OLDEST

print_help() {
    cat <<'HELP'
Usage: ./launch.sh [COMMAND] [OPTIONS]

Commands:
  start      start the web page (this is what happens without a command)
  generate   make pictures without the page: ./launch.sh generate "a blue heart" -o heart.png
  upscale    make pictures larger: ./launch.sh upscale photo.jpg --by 4 -o larger
  merge      make a model of others: ./launch.sh merge A.safetensors B.safetensors --alpha 0.3 -o C.safetensors
  info       tell what a model file is: ./launch.sh info FILE [--json]
  convert    turn an old .ckpt or .pt file into a safetensors file
  doctor     check this installation and say what to do about problems
  test       run the tests; options go to pytest
  train      make the small model that ships, step by step
  help       print this

Options of start that most people need:
  --port N            port of the page (7860)
  --listen            serve other machines too; needs --gradio-auth or a token
  --no-browser        do not open a browser
  --models-dir DIR    folder with checkpoints/ and vae/
  --output-dir DIR    folder for pictures
  --ckpt-dir DIR      one more folder with checkpoints
  --cpu               use the processor even if there is a GPU
  --lowvram           hold as little of a model in memory as possible
  --nowebui           serve the APIs (/api/v1 and A1111's /sdapi/v1) without the page
  --skip-install      start without looking whether everything is installed

./launch.sh COMMAND --help prints all options of a command; docs/command-line.md explains them.

Environment:
  COMMANDLINE_ARGS    more options for start
  PYTHON              the Python to make the virtual environment with (3.10 or newer)
  VENV_DIR            folder of the virtual environment (.venv); "-" uses PYTHON as it is and installs nothing
  TORCH_COMMAND       installs PyTorch in place of our version, for example "pip install torch==2.13.0 --index-url ..."
HELP
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    printf 'launch.sh: %s\n' "$@" >&2
    exit 1
}

# The folder that this file really lies in, whatever links lead to it.
program_folder() {
    local file="${BASH_SOURCE[0]}" target
    while [ -L "$file" ]; do
        target="$(readlink "$file")"
        case "$target" in
            /*) file="$target" ;;
            *) file="$(dirname "$file")/$target" ;;
        esac
    done
    (cd "$(dirname "$file")" && pwd -P)
}

# "11" for Python 3.11, "0" for Python 2, nothing for a program that is no Python.
minor_version() {
    "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)' 2>/dev/null || true
}

is_new_enough() {
    local minor
    minor="$(minor_version "$1")"
    [ -n "$minor" ] && [ "$minor" -ge "$OLDEST" ]
}

can_make_environments() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

explain_no_python() {
    say "launch.sh: Emulsion needs Python 3.$OLDEST or newer, and $1."
    case "$(uname -s)" in
        Darwin) say "Install it from python.org, or with: brew install python@3.12" ;;
        *) say "Install it with your package manager, for example: sudo apt install python3 python3-venv" ;;
    esac
    say "If it is installed somewhere else, say where: PYTHON=/path/to/python3 ./launch.sh"
    exit 1
}

# Prints the name of a Python that is new enough; with the argument "venv" of one that can make environments, too.
find_python() {
    local need="$1" candidate old="" bare=""
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- $PREFERRED; fi
    for candidate in "$@"; do
        if ! command -v "$candidate" >/dev/null 2>&1; then
            continue
        elif ! is_new_enough "$candidate"; then
            old="${old:-$candidate}"
        elif [ "$need" = venv ] && ! can_make_environments "$candidate"; then
            bare="${bare:-$candidate}"
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    [ -z "$bare" ] || fail "$bare lacks its module venv, which keeps what Emulsion installs apart from your system." \
        "On Debian and Ubuntu install it with: sudo apt install python3.$(minor_version "$bare")-venv"
    [ -z "${PYTHON:-}" ] || explain_no_python "PYTHON names \"$PYTHON\", which is none"
    [ -z "$old" ] || explain_no_python "only an older one is there ($old)"
    explain_no_python "none is there"
}

free_gigabytes() {
    local folder="$1"
    while [ ! -d "$folder" ]; do folder="$(dirname "$folder")"; done
    # The number before the percentage, because names of disks and folders may have spaces.
    df -Pk "$folder" | awk 'END { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) print int($(i - 1) / 1048576) }'
}

check_disk() {
    local needed=8 free # 5.5 GB with the CUDA libraries, and their archives while they are unpacked
    if [ "$(uname -s)" = Darwin ] || [ -n "${TORCH_COMMAND:-}" ]; then needed=3; fi # perhaps no CUDA libraries
    free="$(free_gigabytes "$venv")"
    if [ -n "$free" ] && [ "$free" -lt "$needed" ]; then
        fail "The installation needs $needed GB, and the disk of $venv has $free GB free." \
            "Free some space, or name a folder on another disk: VENV_DIR=/path ./launch.sh"
    fi
}

# Keeps two starts from installing into the same place at once.
lock_environment() {
    mkdir -p "$(dirname "$venv")" 2>/dev/null && [ -w "$(dirname "$venv")" ] ||
        fail "$(dirname "$venv") refuses new files. Name another folder for the installation: VENV_DIR=/path ./launch.sh"
    if ! ln -s "$$" "$venv.lock" 2>/dev/null; then
        if kill -0 "$(readlink "$venv.lock")" 2>/dev/null; then
            fail "Another installation into $venv is going on (process $(readlink "$venv.lock")). Wait for it to end."
        fi
        ln -sfn "$$" "$venv.lock" # an installation was killed and left it behind
    fi
    trap 'rm -f "$venv.lock"' EXIT
    trap 'say "Stopped. The next start goes on with the installation."; exit 130' INT TERM
}

unlock_environment() {
    trap - EXIT INT TERM
    rm -f "$venv.lock"
}

# Makes $venv, unless a working environment is there.
make_environment() {
    local python
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        is_new_enough "$venv/bin/python" || fail "$venv has a Python older than 3.$OLDEST. Remove it, or set VENV_DIR."
        return
    fi
    if [ -d "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv holds something else than a virtual environment. Name another folder: VENV_DIR=/path ./launch.sh"
    fi
    python="$(find_python venv)"
    say "Making a virtual environment in $venv with $("$python" --version 2>&1)."
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "The virtual environment could not be made; what Python said stands above."
}

# One line that changes whenever anything does that decides what gets installed.
fingerprint() {
    "$venv/bin/python" -c 'import hashlib, sys
data = "\0".join([sys.version, sys.argv[1]]).encode() + b"".join(open(file, "rb").read() for file in sys.argv[2:])
print(hashlib.sha256(data).hexdigest())' "${TORCH_COMMAND:-}" "$@"
}

# Temporary files go to the disk whose space was checked; /tmp is too small for PyTorch on some systems.
run_pip() { TMPDIR="$venv/tmp" "$venv/bin/python" -m pip "$@" --disable-pip-version-check --no-input; }

install_packages() {
    local requirements="$root/requirements.txt" override
    mkdir -p "$venv/tmp"
    if [ -n "${TORCH_COMMAND:-}" ]; then
        say "Installing PyTorch with: $TORCH_COMMAND"
        TMPDIR="$venv/tmp" "$venv/bin/python" -m $TORCH_COMMAND || return 1 # unquoted: it holds several words
        requirements="$venv/tmp/requirements.txt"
        grep -v '^torch==' "$root/requirements.txt" >"$requirements"
    fi
    run_pip install -r "$requirements" ${1:+-r "$1"} || return 1
    override="$(sed -n 's/^#override //p' "$root/requirements.txt")"
    run_pip install --no-deps "$override" || return 1
    rm -rf "$venv/tmp"
}

# install start | install tests FILE: do once what requirements.txt and FILE ask for.
install() {
    local mark="$venv/emulsion.$1" wanted
    shift
    if [ -z "${TORCH_COMMAND:-}" ] && [ -f "$venv/emulsion.torch-command" ]; then
        TORCH_COMMAND="$(cat "$venv/emulsion.torch-command")" # a later start need not say it again
    fi
    if [ -f "$mark" ]; then
        wanted="$(fingerprint "$root/requirements.txt" "$@" 2>/dev/null || true)"
        if [ -n "$wanted" ] && [ "$(cat "$mark")" = "$wanted" ]; then return; fi
    fi
    check_disk
    lock_environment
    make_environment
    rm -f "$venv/emulsion.start" "$venv/emulsion.tests"
    [ -z "${TORCH_COMMAND:-}" ] || printf '%s\n' "$TORCH_COMMAND" >"$venv/emulsion.torch-command"
    say "Installing what Emulsion needs into $venv. This happens once and takes a few minutes."
    install_packages "$@" || fail "The installation did not succeed; what pip said stands above." \
        "Check the network and the disk and run the same command again. If there is no PyTorch for your Python," \
        "name another one: PYTHON=python3.12 VENV_DIR=/new/folder ./launch.sh"
    fingerprint "$root/requirements.txt" >"$venv/emulsion.start"
    [ "$#" = 0 ] || fingerprint "$root/requirements.txt" "$@" >"$mark"
    unlock_environment
}

# run_module PYTHON MODULE ...: replaces this process, so that signals reach Python. Modules are looked for in our
# folder and never in the current one, which may belong to another program that has a folder called backend.
run_module() {
    local python="$1"
    shift
    exec "$python" -c 'import runpy, sys
sys.path[0] = sys.argv.pop(1)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)' "$root" "$@"
}

# Installs nothing: the parsers of the commands stand on the standard library alone.
show_help_of() {
    local python="$venv/bin/python"
    case "$1" in
        test) echo "Usage: ./launch.sh test [PYTEST OPTIONS]: install what the tests need and run them with pytest." ;;
        train) echo "Usage: ./launch.sh train STEP [OPTIONS]; docs/small-model.md tells steps and options." ;;
        *)
            [ -x "$python" ] || python="$(find_python any)"
            if [ "$1" = start ]; then exec "$python" "$root/app.py" --help; fi
            run_module "$python" backend.commands "$1" --help
            ;;
    esac
}

main() {
    local command="" argument python skips_install=""
    case "${1:-}" in
        start | generate | upscale | merge | info | convert | doctor | test | train) command="$1" && shift ;;
        help) print_help && return ;;
        "" | -*) ;;
        *) fail "There is no command \"$1\". ./launch.sh --help lists what there is." ;;
    esac
    root="$(program_folder)"
    venv="${VENV_DIR:-.venv}"
    case "$venv" in /* | -) ;; *) venv="$root/$venv" ;; esac
    for argument in "$@"; do
        case "$argument" in
            --help | -h) if [ -n "$command" ]; then show_help_of "$command"; else print_help; fi && return ;;
            --skip-install) skips_install=yes ;;
        esac
    done
    case " ${COMMANDLINE_ARGS:-} " in *" --skip-install "*) skips_install=yes ;; esac

    # What Gradio and the Hugging Face libraries read from the environment is not for other programs to decide.
    unset GRADIO_SHARE GRADIO_VIBE_MODE GRADIO_MCP_SERVER GRADIO_ALLOWED_PATHS
    export GRADIO_ANALYTICS_ENABLED=False HF_HUB_DISABLE_TELEMETRY=1

    python="$venv/bin/python"
    if [ "$venv" = - ]; then
        python="$(find_python any)"
    elif [ "$command" = test ]; then
        install tests "$root/tests/requirements.txt"
    elif [ -z "$skips_install" ]; then
        install start
    elif [ ! -x "$python" ]; then
        fail "--skip-install was given, but nothing is installed in $venv yet."
    fi
    case "$command" in
        "" | start) exec "$python" "$root/app.py" "$@" ;;
        test)
            # All of them: by as many processes as there are processors, up to four, each with whole files.
            [ "$#" -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile
            cd "$root" && exec "$python" -m pytest "$@"
            ;;
        train) run_module "$python" backend.training "$@" ;;
        *) run_module "$python" backend.commands "$command" "$@" ;;
    esac
}

main "$@"
