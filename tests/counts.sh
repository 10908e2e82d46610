# Sourced by tests/check.sh and tests/gpu/run.sh: runs tests, prints one line for each program, and adds
# up what passed, failed and was skipped. V=1 shows everything the programs print.

passed=0 failed=0 skipped=0
test_log=$(mktemp)
trap 'rm -f "$test_log"' EXIT

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-"suppressions='$PWD/tests/tsan.supp'"}

# Adds one program's counts and prints its line; the log follows if anything failed.
# record NAME SECONDS PASSED FAILED SKIPPED
record() {
    passed=$((passed + $3)) failed=$((failed + $4)) skipped=$((skipped + $5))
    printf '%-44s %4d passed, %d failed' "$1" "$3" "$4"
    [ "$5" = 0 ] || printf ', %d skipped' "$5"
    printf '  (%d s)\n' "$2"
    if [ "$4" != 0 ] || [ "${V:-0}" = 1 ]; then
        sed 's/^/    /' "$test_log"
    fi
}

# The sum of the numbers that a sed expression finds in the log.
sum_of() { sed -n "$1" "$test_log" | awk '{ n += $1 } END { print n + 0 }'; }

# Runs one test program and adds what it says it ran, cmocka's totals or a line "N passed, N failed":
# run_program NAME COMMAND...
run_program() {
    local name=$1 start=$SECONDS status
    shift
    "$@" >"$test_log" 2>&1 </dev/null
    status=$?
    record_program "$name" $((SECONDS - start)) "$status"
}

# Runs test programs, as many at a time as there are processors, and records them in their order.
run_programs() {
    local logs next=0 started=0 program
    logs=$(mktemp -d)
    for program; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do
            wait -n
            record_ended "$@"
        done
        run_aside "$logs/$started" "$program" &
        started=$((started + 1))
    done
    wait
    record_ended "$@"
    rm -r "$logs"
}

# run_programs' parts: runs a program into LOG, what it took and its status into LOG.end; and records the ended
# ones before which none is left.
run_aside() {
    local start=$SECONDS status
    "$2" >"$1" 2>&1 </dev/null
    status=$?
    echo "$((SECONDS - start)) $status" >"$1.new"
    mv "$1.new" "$1.end"
}
record_ended() {
    local programs=("$@") seconds status
    while [ -e "$logs/$next.end" ]; do
        read -r seconds status <"$logs/$next.end"
        cp "$logs/$next" "$test_log"
        record_program "${programs[next]#"$PWD"/}" "$seconds" "$status"
        next=$((next + 1))
    done
}

# What the log and the exit status of a test program say: record_program NAME SECONDS STATUS. One that dies,
# exits non-zero although none of its tests failed (a sanitizer's report) or runs no test counts as one failure;
# exit status 77, as one skipped.
record_program() {
    local status=$3 total p f s
    total=$(sum_of 's/^\[==========\] .*\b\([0-9][0-9]*\) test(s) run.*/\1/p')
    p=$(sum_of 's/^\[  PASSED  \] \([0-9][0-9]*\) test(s).*/\1/p')
    s=$(sum_of 's/^\[  SKIPPED \] \([^:]*: \)\{0,1\}\([0-9][0-9]*\) test(s).*/\2/p') # cmocka 1.1.8 names the group
    f=$((total - p - s))
    p=$((p + $(sum_of 's/^\([0-9][0-9]*\) passed, [0-9][0-9]* failed.*/\1/p')))
    f=$((f + $(sum_of 's/^[0-9][0-9]* passed, \([0-9][0-9]*\) failed.*/\1/p')))
    if [ $status = 77 ]; then
        s=$((s + 1))
    elif [ $((p + f + s)) = 0 ] || { [ $status != 0 ] && [ $f = 0 ]; }; then
        echo "exit status $status" >>"$test_log"
        f=1
    fi
    record "$1" "$2" "$p" "$f" "$s"
}

# Runs one command that is a test as a whole: run_command NAME COMMAND...
run_command() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$test_log" 2>&1 </dev/null; then
        record "$name" $((SECONDS - start)) 1 0 0
    else
        echo "exit status $?" >>"$test_log"
        record "$name" $((SECONDS - start)) 0 1 0
    fi
}

# Runs the Python tests against the program in a build folder: run_pytest BUILD_FOLDER PATH... Several files at a
# time, but the tests of one file in their order: they may share what a fixture made. $PYTHON: that of another
# environment than .venv.
run_pytest() {
    local build=$1 start=$SECONDS status report total f s
    shift
    report=$build/pytest.xml
    rm -f "$report"
    EFFNET_BUILD=$build "${PYTHON:-.venv/bin/python}" -m pytest -q -p no:cacheprovider -n "$(nproc)" --maxprocesses=8 \
        --dist=loadfile --max-worker-restart=0 \
        -o empty_parameter_set_mark=fail_at_collect --junitxml="$report" "$@" \
        >"$test_log" 2>&1 </dev/null
    status=$?
    # 0 where there is no report, because pytest did not start.
    attribute() { sed -n "s/.*<testsuite [^>]*\b$1=\"\([0-9]*\)\".*/\1/p" "$report" 2>/dev/null | grep -m 1 . || echo 0; }
    total=$(attribute tests) f=$(($(attribute failures) + $(attribute errors))) s=$(attribute skipped)
    if [ $status != 0 ] && [ "$f" = 0 ]; then f=1 total=$((total + 1)); fi
    record pytest $((SECONDS - start)) $((total - f - s)) "$f" "$s"
}

# One part of a longer run, which counts by itself: shows its output, adds its last line of counts, and takes
# exit status 77 for "skipped": run_part NAME COMMAND...
run_part() {
    local name=$1 start=$SECONDS status counts
    shift
    echo "======== $name"
    "$@" 2>&1 </dev/null | tee "$test_log"
    status=${PIPESTATUS[0]}
    counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$test_log" | tail -n 1)
    if [ "$status" = 77 ]; then
        skip_part "$name" "$(sed -n 's/^skipped: //p' "$test_log" | tail -n 1)"
        return
    fi
    # shellcheck disable=SC2086  # one number a word
    set -- $(echo "$counts" | tr -c '0-9\n' ' ')
    local p=${1:-0} f=${2:-0} s=${3:-0}
    if [ "$f" = 0 ] && { [ "$status" != 0 ] || [ "$p" = 0 ]; }; then
        echo "$name: exit status $status"
        f=1
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    echo "-------- $name: $p passed, $f failed, $s skipped  ($((SECONDS - start)) s)"
}

# A part that cannot run here: skip_part NAME REASON
skip_part() {
    skipped=$((skipped + 1))
    echo "-------- $1: skipped, $2"
}

# Prints the counts as the last line; the exit status tells whether all is well.
finish() {
    local line="$passed passed, $failed failed"
    [ $skipped = 0 ] || line="$line, $skipped skipped"
    echo "$line"
    [ $failed = 0 ] && [ $passed != 0 ]
}
