"""What a GPU is asked, part by part: how fast it is at best, and which kernel each shape gets."""
