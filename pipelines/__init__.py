"""How samples arrive: dataset index, order, crops, and the engines that decode."""
