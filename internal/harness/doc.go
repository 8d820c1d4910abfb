// Package harness starts real Postgres and Redis servers from local binaries
// on free ports of 127.0.0.1, and proxies that cut and stall the connections
// to them. Tests, the demo and the benchmarks stand on it.
//
// It owns the servers' processes, directories and ports: each server dies with
// the process that started it, also when that is killed, and directories that
// a killed process left behind are removed by the next one. It must not know
// anything of walrill's own packages, so that it can judge them: the oracle
// reads a second slot through test_decoding with a parser of its own.
package harness
