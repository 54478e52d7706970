"""What a data set is labelled for, one file a task: its targets, metrics, and what is kept of predictions."""

import sys

from deepsup.specs import import_all
from deepsup.tasks.reranking import KReciprocal as KReciprocal
from deepsup.tasks.retrieval import RetrievalScores as RetrievalScores
from deepsup.tasks.retrieval import retrieval_scores as retrieval_scores
from deepsup.tasks.task import METRICS as METRICS
from deepsup.tasks.task import TASKS as TASKS
from deepsup.tasks.task import Counts as Counts
from deepsup.tasks.task import Task as Task
from deepsup.tasks.task import better as better
from deepsup.tasks.task import is_share as is_share
from deepsup.tasks.task import metric as metric
from deepsup.tasks.task import register as register
from deepsup.tasks.task import shown as shown
from deepsup.tasks.task import task_of as task_of

import_all(sys.modules[__name__])
