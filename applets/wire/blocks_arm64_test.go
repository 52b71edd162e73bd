package wire

func fastBlocks() bool { return true }
