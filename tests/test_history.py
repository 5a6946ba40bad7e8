from cifar_core.history import best_epoch


def test_the_first_of_the_best_validation_accuracies():
    accs = [0.1, 0.5, 0.4, 0.5]
    assert best_epoch([{"epoch": n, "val/acc": acc} for n, acc in enumerate(accs, start=1)]) == 2


def test_without_validation_it_is_the_last():
    assert best_epoch([{"epoch": n, "test/acc": 1 / n} for n in (1, 2, 3)]) == 3
