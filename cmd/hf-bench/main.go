//go:build linux

// Command hf-bench measures the init and the agent, each figure beside a floor:
// the least that a program could take for the same, measured in the same run and in
// turns, so that the ratio of the two means something on a noisy machine.
//
// It boots the real binary as PID 1, of namespaces on this machine and of a virtual
// machine, and runs itself there as the workload, which measures and says on the
// console what came of it.
package main

import "os"

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }
