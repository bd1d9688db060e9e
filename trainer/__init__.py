"""The offline trainer: prepare, pretrain, finetune, evaluate."""
