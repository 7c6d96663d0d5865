"""The tab in TensorBoard: `loader.Loader` is what TensorBoard finds; nothing imports torch."""
