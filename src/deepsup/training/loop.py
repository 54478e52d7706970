"""The training loop, one for `deepsup.fit` and `deepsup train` alike: steps, epochs, checkpoints, journal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deepsup import losses
from deepsup.doctor import Diagnosis
from deepsup.errors import DatasetError, NonFiniteError
from deepsup.evaluation import devices
from deepsup.evaluation.evaluate import Evaluation, evaluate
from deepsup.evaluation.loaders import Batch, samples_in
from deepsup.evaluation.search import searched
from deepsup.probes import weight_layers
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.halves import outputs_of
from deepsup.supervision.loss_terms import Terms
from deepsup.tasks import TASKS, better, task_of
from deepsup.tasks.reidentification import RE_IDENTIFICATION
from deepsup.training import checkpoints, memory
from deepsup.training.checkpoints import Checkpoint, load_net, on_cpu
from deepsup.training.interruptions import PutOff
from deepsup.training.job import FitResult, Job
from deepsup.training.journal import Journal, Record, read
from deepsup.training.keeping import keep_best, keep_epoch, out_of_patience
from deepsup.training.meters import Conflicts, LossMeter, Stopwatch, check_weights, explained
from deepsup.training.preflight import examine, first_batch
from deepsup.training.stepping import Stepper

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Loop:
    """One run, from its first step or from its last checkpoint to its end.

    Where the order of things matters: a step's loss is looked at before its gradient is applied, the journal is on the
    disk before the checkpoint that counts its bytes, and nothing that is not finite is ever written to a checkpoint.
    """

    def __init__(self, job: Job, fabric: Fabric, checkpoint: Checkpoint | None = None) -> None:
        self.job, self.fabric, self.net = job, fabric, job.net
        if checkpoint is not None:
            load_net(job.net, checkpoint)
        fabric.to_device(job.net)
        if job.channels_last:
            job.net.to(memory_format=torch.channels_last)
        batch = None if checkpoint else first_batch(job.train, fabric)
        asked = batch is not None and job.forward is devices.called  # else the doctor knows no way to run the net
        found = None if batch is None or not asked else examine(job.net, job.objective, job.optimizer, batch, job.train)
        self.conflicts = Conflicts(job.net, job.log, fabric)
        net = devices.compiled(job.net, job.compile) if job.compile else job.net
        self.wrapped, optimizer = fabric.setup(net, job.optimizer)
        self.stepper = Stepper(job, fabric, self.wrapped, optimizer)
        self.epoch = self.batch = self.step = 0
        self.metric = checkpoint.metric if checkpoint else job.metric or self._usual_metric(batch and batch[1])
        self.score: float | None = None
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.epoch_began = 0.0
        self.epoch_rng: dict[str, Any] = {}
        self.loss_meter = LossMeter(fabric)
        self.watch = Stopwatch()
        self._saves = (
            job.folder is not None and fabric.world_size == 1
        )  # when told to stop: of several, others would wait
        self.history: list[Record] = []
        self.measured = weight_layers(job.net.model if isinstance(job.net, Supervised) else job.net)
        path = job.folder / "journal.jsonl" if job.folder and fabric.is_global_zero else None
        sinks = (*(job.sinks if fabric.is_global_zero else ()), self._remember)
        kept: dict[str, Any] = {"offset": checkpoint.journal, "sha256": checkpoint.journal_sha256} if checkpoint else {}
        self.journal = Journal(path, sinks=sinks, **kept)
        try:
            self._resume(checkpoint) if checkpoint else self._begin(found, batch)
        except BaseException:
            self.journal.close()
            raise
        memory.peak_bytes(fabric.device, reset=True)

    def _begin(self, found: Diagnosis | None, batch: Batch | None) -> None:
        self.journal.write("start", format=1, **self.job.start, epochs=self.job.epochs, metric=self.metric)
        if found is not None:
            self.journal.write("doctor", findings=found.to_dict())
        if batch is not None:
            saved = memory.saved_bytes(self.net, self.job.objective, batch, self.fabric, self.job.forward)
            self.journal.write("cost", saved_bytes=saved, samples=samples_in(batch[1]))
        for record in self.job.opening:
            self.journal.write(**record)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Counters, sums, optimiser and random streams, as they were between the two steps."""
        if self.journal.lost:
            self._begin(None, None)
        if self.journal.path:
            self.history = read(self.journal.path, "epoch")
        self.job.optimizer.load_state_dict(checkpoint.optimizer)
        self.stepper.load(averaged=checkpoint.averaged, scaler=checkpoint.scaler, step=checkpoint.step)
        self.epoch, self.batch, self.step = checkpoint.epoch, checkpoint.batch, checkpoint.step
        self.score, self.best, self.best_epoch = checkpoint.score, checkpoint.best_score, checkpoint.best_epoch
        self.watch.seconds, self.watch.step_ms = checkpoint.seconds, list(checkpoint.step_ms)
        self.epoch_began = checkpoint.epoch_began
        rank = self.fabric.global_rank
        sums = checkpoint.sums[rank]
        self.loss_meter.load(sums)
        self.conflicts.load(sums.get("conflict", {"steps": [], "samples": []}))
        self.job.objective.uncounted = frozenset()  # what was before is not known
        self.job.objective.load_state_dict(sums.get("objective", {"calls": 0, "memory": {}}))
        self.epoch_rng = checkpoint.epoch_rng[rank]
        checkpoints.set_rng_state(checkpoint.rng[rank])
        if isinstance(self.net, Supervised):
            self.net.calls = checkpoint.rng[rank]["heads"]
        now = min(self.epoch + 1, self.job.epochs)
        self.journal.write(
            "resume", step=self.step, epoch=now, epochs=self.job.epochs, progress=self._progress(), metric=self.metric
        )

    def _remember(self, record: Record) -> None:
        if record["kind"] == "epoch":
            self.history.append(record)

    def run(self) -> FitResult:
        """Train to the end."""
        with self.journal, self.conflicts:
            try:
                while self.epoch < self.job.epochs and not self._has_given_up():
                    self._run_epoch()
            except NonFiniteError as error:
                named = explained(error, self.net, self.job.optimizer)
                self.journal.write("stop", reason=str(named), step=self.step)
                raise named from None
            self._write_conflict(self.epoch, 1.0)  # of the steps since the last record
            if self.job.channels_last:  # weights leave as they came
                self.net.to(memory_format=torch.contiguous_format)
            self.stepper.leave()
            if self.job.finish is not None and self.fabric.is_global_zero:
                self.job.finish()
            result = self._result()
            told = {k: v for k, v in result._asdict().items() if k not in ("history", "journal")}
            self.journal.write("end", **told, peak_bytes=memory.peak_bytes(self.fabric.device))
        return result

    def _result(self) -> FitResult:
        return FitResult(
            step=self.step,
            epochs=self.epoch,
            score=self.score,
            best_score=self.best,
            metric=self.metric,
            seconds=self.watch.seconds,
            step_ms=self.watch.median_ms(self.step),
            history=self.history,
            journal=self.journal.path,
            best_epoch=self.best_epoch,
        )

    def _has_given_up(self) -> bool:
        """Whether the score has not become better for as long as anybody wants to wait."""
        job = self.job
        return not self.batch and out_of_patience(self.epoch, self.best_epoch, job.patience, every=job.validate_every)

    def _run_epoch(self) -> None:
        if not self.net.training:
            self.net.train()
        if self.batch == 0:
            self.epoch_began = self.watch.seconds
        every, length = self.job.checkpoint.every_steps, self.job.train.length
        self._start_watch()
        with PutOff(wanted=self._saves) as stop:
            for x, y in self._batches():
                x, y = self.fabric.to_device((x, y))
                if self.job.mix is not None:
                    x, y = self.job.mix(x, y, epoch=self.epoch, batch=self.batch)
                self._step(devices.channels_last(x) if self.job.channels_last else x, y)
                self.batch += 1
                due = ((every and self.step % every == 0) or stop.asked) and not self.stepper.pending
                if due and self.batch != length:  # after the last one the epoch has its own
                    self._check_finite()
                    self._checkpoint()
                    stop.answer()
                    self._start_watch()
        if self.stepper.pending:  # of a source that did not say which batch was its last
            self._apply()
        if self.batch == 0:
            raise DatasetError(f"the training source yielded no batch in epoch {self.epoch + 1}. Check what it holds.")
        if self.epoch == 0:
            self._check_counted()
        self._finish_epoch()
        stop.answer()

    def _check_counted(self) -> None:
        """Raise `DatasetError` for an output of which no process had a label that counts in the whole first epoch."""
        everyone = devices.gathered(self.fabric, self.job.objective.uncounted or frozenset())
        if silent := frozenset.intersection(*everyone):
            raise DatasetError(
                f"in the whole first epoch not one label or value of {', '.join(sorted(silent))} counted, so that nothing was "
                f"learned: all are {losses.IGNORE} (or the loss's ignore_index), NaN, masked, or of classes of weight 0. Look at "
                "the targets, and at what marks a place that does not count."
            )

    def _batches(self) -> Iterator[Batch]:
        """The rest of this epoch's batches; a source that shuffles by the global random state gets the one it had."""
        loader = self.job.train
        if self.batch == 0:
            self.epoch_rng = checkpoints.rng_state() if loader.draws else {}
            return loader.epoch(self.epoch)
        now = checkpoints.rng_state()
        if self.epoch_rng:
            checkpoints.set_rng_state(self.epoch_rng)
        batches = loader.epoch(self.epoch, start=self.batch)
        checkpoints.set_rng_state(now)
        return batches

    def _step(self, x: Any, y: Any) -> None:
        """One batch forward and back, and where it is the last of its step, the step."""
        progress, size = self._progress(), self.job.step.accumulate
        last = (self.batch + 1) % size == 0 or self.batch + 1 == self.job.train.length
        self.stepper.set_rate(progress)
        if isinstance(self.net, Supervised):
            self.net.set_progress(progress)
        with self.stepper.collecting(last=last):
            terms = self.job.objective(outputs_of(self._forward, self.job.objective, x, y), y, progress=progress)
            values = self.loss_meter.add(terms, samples_in(y), step=self.step + 1)
            if last:
                self.conflicts.look(terms, step=self.step + 1)
            self.stepper.backward(terms.total, samples_in(y))
        self.conflicts.step()
        if last:
            self._apply()
            if self.step == 1 or self.step % self.job.log.every == 0:
                self._write_step(terms, values, progress)

    def _forward(self, x: Any) -> Any:
        return self.job.forward(self.wrapped, x)

    def _apply(self) -> None:
        """The step of the optimiser, with the gradients that are there."""
        self.stepper.gather()
        if self.step < self.job.log.gradients:
            self._write_gradients()
        self.stepper.step()
        self.step += 1

    def _progress(self) -> float:
        """The share of training that is done before this step; by whole epochs where the source has no length."""
        length, each = self.job.train.length, self.job.step.accumulate
        within = min(1.0, self.batch // each / -(-length // each)) if length else 0.0
        return (self.epoch + within) / self.job.epochs

    def _write_gradients(self) -> None:
        means = {n: w.grad.float().abs().mean() for n, w in self.measured.items() if w.grad is not None}
        if means:  # one transfer from the device for all layers
            values = torch.stack(list(means.values())).tolist()
            self.journal.write("gradients", step=self.step + 1, layers=dict(zip(means, values, strict=True)))

    def _write_step(self, terms: Terms, values: Tensor, progress: float) -> None:
        means = self._everywhere(dict(zip(("total", *terms.parts), values.tolist(), strict=True)))
        self.watch.lap(self.step)
        self.loss_meter.check()
        self.journal.write(
            "step",
            step=self.step,
            epoch=self.epoch + 1,
            progress=progress,
            total=means.pop("total"),
            parts={name: mean for name, mean in means.items() if math.isfinite(mean)},  # a term of weight 0 need not be
            weights={name: float(weight) for name, weight in terms.weights.items()},
            lr=self.job.optimizer.param_groups[0]["lr"],
            **({} if self.stepper.norm is None else {"gradient_norm": float(self.stepper.norm)}),
        )
        self._write_conflict(self.epoch + 1, progress)
        self._mark()

    def _everywhere(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over the processes of each value, over those that have it."""
        found: dict[str, list[float]] = {}
        for share in devices.gathered(self.fabric, values):
            for name, value in share.items():
                found.setdefault(name, []).append(value)
        return {name: sum(shares) / len(shares) for name, shares in found.items()}

    def _write_conflict(self, epoch: int, progress: float) -> None:
        if (found := self.conflicts.read()) is not None:
            self.journal.write("conflict", step=self.step, epoch=epoch, progress=progress, **found)

    def _finish_epoch(self) -> None:
        train = self.loss_meter.means()
        self.watch.stop()
        self._check_finite()
        scores = self._validate(self.epoch + 1)
        with PutOff(wanted=self._saves) as stop:
            self.epoch, self.batch = self.epoch + 1, 0
            self.loss_meter.reset()
            if scores is not None:
                self._judge(scores)
            told: dict[str, Any] = {"train": train, "validation": None if scores is None else scores.record()}
            told["seconds"] = self.watch.seconds - self.epoch_began
            self.journal.write("epoch", epoch=self.epoch, step=self.step, progress=self.epoch / self.job.epochs, **told)
            self._checkpoint()
        stop.answer()

    def _usual_metric(self, target: Any) -> str:
        if searched(self.job.validation) is not None:
            return TASKS[RE_IDENTIFICATION].metric
        main, target = self.job.objective.predictions.get("main"), self.job.objective.targets(target).main
        return task_of(target, self.job.objective.kind("main"), main.places if main else None).metric

    def _validate(self, epoch: int) -> Evaluation | None:
        last = epoch == self.job.epochs
        if self.job.validation is None or (epoch % self.job.validate_every and not last):
            return None
        before = self._own_state() if self._saves else None
        try:
            return evaluate(
                self.stepper.net,
                self.job.validation,
                objective=self.job.objective,
                metric=self.job.metric,
                progress=epoch / self.job.epochs,
                fabric=self.fabric,
                run=self.job.run,
                how=self.job.how if last else replace(self.job.how, rerank=False),
            )
        except BaseException:  # a signal, or an image that cannot be read: the epoch's steps are not lost
            if before is not None:
                with suppress(Exception):
                    self._checkpoint(before)
            raise

    def _judge(self, scores: Evaluation) -> None:
        """Know the score of the epoch, and keep the weights of the best."""
        self.score = scores.score.get("main")
        if self.score is not None and better(self.metric, self.score, self.best):
            self.best, self.best_epoch = self.score, self.epoch
            if self.job.checkpoint.best and self.job.folder and self.fabric.is_global_zero:
                keep_best(self.stepper.net, self.job.folder)

    def _check_finite(self) -> None:
        self.loss_meter.check()
        check_weights(self.net, step=self.step)

    def _own_state(self) -> list[dict[str, Any]]:
        """What each process has of its own: random streams, those that the epoch began with, sums."""
        random = {**checkpoints.rng_state(), "heads": getattr(self.net, "calls", 0)}
        own = {"conflict": self.conflicts.state(), "objective": on_cpu(self.job.objective.state_dict())}
        return [random, self.epoch_rng, {**self.loss_meter.state(), **own}]

    def _checkpoint(self, own: list[dict[str, Any]] | None = None) -> None:
        self.watch.stop()
        if self.job.folder is None:
            return
        everyone = devices.gathered(self.fabric, own or self._own_state())
        rng, epoch_rng, sums = map(list, zip(*everyone, strict=True))
        if not self.fabric.is_global_zero:
            return
        made = Checkpoint(
            net=self.net.state_dict(),
            optimizer=self.job.optimizer.state_dict(),
            epoch=self.epoch,
            batch=self.batch,
            step=self.step,
            rng=rng,
            epoch_rng=epoch_rng,
            sums=sums,
            journal=self.journal.sync(),
            journal_sha256=self.journal.sha256,
            score=self.score,
            metric=self.metric,
            best_score=self.best,
            best_epoch=self.best_epoch,
            seconds=self.watch.seconds,
            epoch_began=self.epoch_began,
            step_ms=self.watch.step_ms,
            **self.stepper.state(),
            plan=self.job.plan,
            config=self.job.config,
        )
        if not self.batch:
            keep_epoch(made, self.job.folder, last=self.job.checkpoint.last)
        checkpoints.save(made, self.job.folder / "checkpoint.ckpt")

    def _start_watch(self) -> None:
        self.watch.start()
        self._mark()

    def _mark(self) -> None:
        if self.step >= self.job.log.gradients:  # measuring gradients makes a step slower than it is
            self.watch.mark(self.step)
