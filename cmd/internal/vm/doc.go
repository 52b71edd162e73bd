// Package vm starts real virtual machines on an ordinary Linux host and listens
// to their console: it installs what is missing, fetches the distribution's
// kernel, finds out which accelerator works, and runs QEMU or Firecracker so
// that nothing is left running behind it. hf-vm and the VM test-suite share it.
package vm
