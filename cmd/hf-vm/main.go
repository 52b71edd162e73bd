// Command hf-vm boots the init in a real virtual machine: it is what `make run`
// and `make test` are made of. See hf-vm --help.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
