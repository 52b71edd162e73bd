// Command hf is the whole of Hyperfleet's in-guest software as one binary; see
// package applets.
package main

import (
	"os"

	"github.com/hyperfleet/init/applets"
)

func main() { os.Exit(applets.Main()) }
