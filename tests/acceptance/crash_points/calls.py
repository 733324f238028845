"""The functions at which a process is killed: functions of the product, and of the libraries that it calls."""

from __future__ import annotations

# Who schedules
SCHEDULE_RETRY = "rebound_celery.app:Rebound.schedule_retry"
SCHEDULE_RETRIES = "rebound_celery.app:Rebound.schedule_retries"
#: Sends the call of a script, and reads the answer of Redis.
WAIT_FOR_REDIS = "rebound_celery.schedule.store.script_runner:_answer"

# The consumer
POLL = "kafka:KafkaConsumer.poll"
COMMIT = "kafka:KafkaConsumer.commit_async"
LAST_COMMIT = "kafka:KafkaConsumer.commit"
#: Called after Kafka has confirmed the offsets.
COMMITTED = "rebound_celery.consumer.offset_tracker:OffsetTracker.confirm"
HANDLER = "tests.acceptance.crash_points.app:handle"
INSIDE_HANDLER = "tests.acceptance.crash_points.app:work"
JUDGED = "rebound_celery.consumer.retry_writer:RetryWriter.put"
REVOKED = "rebound_celery.consumer.rebalance:RebalanceListener._commit"

# The worker, and the child of a prefork pool
HANDED_OVER = "rebound_celery.delivery.gatherer:Gatherer._run"
SEND = "kafka:KafkaProducer.send"
CONFIRM = "rebound_celery.destinations.kafka.kafka_python:KafkaPythonClient._confirm"
POST = "rebound_celery.destinations.http:HttpDestination._post"
#: Sends the request and waits for the first bytes of the answer.
REQUEST = "urllib3:PoolManager.request"
#: The request is sent.
WAIT_FOR_ANSWER = "urllib3.connection:HTTPConnection.getresponse"
#: Writes a result of any kind.
TELL_RESULT = "celery.backends.redis:RedisBackend.set"
CHILD_IS_THROUGH = "rebound_celery.delivery.task:DeliverTask.run_batch"
PARENT_HEARS = "rebound_celery.delivery.job:Job.on_done"
#: Stores the outcome of a post whose job has ended before it.
SETTLE_LATER = "rebound_celery.delivery.batch:Batch._settle_later"
#: Asks Redis for the remaining leases after a child was lost.
LET_GO = "rebound_celery.schedule.transport.qos:LeasingQoS.let_go"
TOLD = "rebound_celery.schedule.transport.claimed:ClaimedMessages._keep_lost"
ACKNOWLEDGED = "rebound_celery.schedule.transport.leases:Leases.end_all"

#: Runs a script of the schedule in Redis; see `inject.before_script`.
RUN_SCRIPT = "rebound_celery.schedule.store.script_runner:run_script"
