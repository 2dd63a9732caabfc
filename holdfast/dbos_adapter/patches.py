"""Lists every private name of DBOS that Holdfast uses. `holdfast.dbos_adapter.patching` installs the patches.

Holdfast's own processes pin DBOS exactly (the extra `stack` in pyproject.toml). Only `holdfast.dbos_adapter`
uses private names of DBOS. Each name has a contract test, which says what to check if it fails after an
upgrade of DBOS.
"""

from __future__ import annotations

from typing import NamedTuple


class PrivateName(NamedTuple):
    """One name that DBOS does not document."""

    name: str
    """The full name. It begins with a dot if it is an attribute of one of DBOS's objects."""
    why: str
    test: str
    """The contract test."""


PRIVATE_NAMES = (
    # --- one application ---
    PrivateName(
        "._active_workflows_set",
        "replaced by Slots, which count an execution from its dispatch on",
        "test_contracts.py::test_the_active_set_is_the_one_dbos_uses",
    ),
    PrivateName(
        "._sys_db",
        "gets the sessions, waits and limits that the replaced methods use",
        "test_round_trips.py::test_the_replaced_methods_take_what_dbos_hands_over",
    ),
    PrivateName(
        ".background_thread_stop_events",
        "a drain stops claims and schedules while workflows run on",
        "test_contracts.py::test_the_stop_events_stop_claims_and_schedules_but_not_what_runs",
    ),
    PrivateName(
        "._serializer",
        "the serializer of the application",
        "test_outcomes.py::test_what_is_stored_of_an_error_is_made_in_one_place",
    ),
    # --- the launch of an attached application ---
    PrivateName(
        "dbos._dbos._dbos_global_instance",
        "the application that launches, or has launched already",
        "test_launching.py::test_what_an_application_is_configured_with",
    ),
    PrivateName(
        "dbos._utils.GlobalParams",
        "the executor's id and version, which DBOS reads at its launch",
        "test_launching.py::test_what_an_application_is_configured_with",
    ),
    PrivateName(
        "._config",
        "an attached application's database, schema and name",
        "test_launching.py::test_what_an_application_is_configured_with",
    ),
    PrivateName(
        "._registry",
        "an attached application's version; its hidden queues",
        "test_launching.py::test_what_an_application_is_configured_with",
    ),
    PrivateName(
        "._launched",
        "DBOS ignores a second launch",
        "test_launching.py::test_what_an_application_is_configured_with",
    ),
    PrivateName(
        "._register_internal_queue",
        "the queues of suspects and trials, which no row names",
        "test_launching.py::test_a_hidden_queue_is_one_of_dboss_internal_queues",
    ),
    PrivateName(
        "._workflow_tasks",
        "whether DBOS.destroy() blocks the loop on which async workflows run",
        "test_launching.py::test_what_an_application_is_configured_with",
    ),
    # --- queues and claims ---
    PrivateName(
        "dbos._queue.queue_worker_thread",
        "the thread of a queue waits for a wake-up that a notification sends",
        "test_contracts.py::test_the_signature_of_the_queue_thread",
    ),
    PrivateName(
        "dbos._queue.execute_dequeued_workflow",
        "the start of each claim: trials, metrics, slots",
        "test_contracts.py::test_every_claim_of_a_queue_starts_through_one_function",
    ),
    *(
        PrivateName(name, why, "test_contracts.py::test_the_functions_that_execute_a_workflow")
        for name, why in (
            (
                "dbos._core._execute_workflow_wthread",
                "the thread of an execution holds its slot until it ends",
            ),
            ("dbos._core._execute_workflow_async", "the task of an execution holds its slot until it ends"),
            ("._executor", "a direct start counts as running while it waits for a thread"),
        )
    ),
    PrivateName(
        "dbos._sys_db_postgres.PostgresSystemDatabase",
        "its methods that claim, record, replay and wait are replaced by ones with fewer round trips",
        "test_round_trips.py::test_the_replaced_methods_take_what_dbos_hands_over",
    ),
    *(
        PrivateName(
            name,
            "limits of a queue, without the read of the database that its public property does",
            "test_round_trips.py::test_a_queue_with_a_shared_limit_is_left_to_dbos",
        )
        for name in (
            "._concurrency",
            "._limiter",
            "._worker_concurrency",
            "._partition_concurrency",
            "._partition_limiter",
            "._partition_worker_concurrency",
        )
    ),
    # --- contexts ---
    PrivateName(
        "dbos._context.get_local_dbos_context",
        "the execution that a call belongs to",
        "test_waits.py::test_a_wait_is_published_until_the_workflow_goes_on",
    ),
    PrivateName(
        "dbos._context.current_owner_xid",
        "the token of the execution's claim, without which nothing is recorded",
        "test_round_trips.py::test_who_may_record_what",
    ),
    PrivateName(
        "dbos._context.EnterDBOSWorkflow",
        "a workflow that is called like a function runs here and holds no slot",
        "test_direct_runs.py::test_a_drain_waits_for_its_step",
    ),
    # --- steps and outcomes ---
    PrivateName(
        "dbos._core.invoke_step",
        "every end of a step is recorded once; a step that runs is no wait",
        "test_outcomes.py::test_every_step_runs_through_one_function",
    ),
    PrivateName(
        "dbos._core._dropping_datasource_checkpoints",
        "every end of a workflow's body is recorded",
        "test_outcomes.py::test_every_workflows_body_runs_through_one_function",
    ),
    *(
        PrivateName(name, why, "test_ends.py::test_an_execution_counts_as_its_row_says")
        for name, why in (
            ("dbos._core._get_wf_invoke_func", "an execution is counted once its outcome is stored"),
            ("dbos._registrations.get_dbos_func_name", "the name of a workflow whose task was cancelled"),
        )
    ),
    PrivateName(
        "dbos._core._serialize_exception_for_persistence",
        "stores the outcome of a cancelled task as DBOS stores an error",
        "test_outcomes.py::test_what_is_stored_of_an_error_is_made_in_one_place",
    ),
    PrivateName(
        "dbos._event_loop.asyncio",
        "the loop of all async workflows survives an exit in one of them",
        "test_outcomes.py::test_the_loop_of_all_async_workflows",
    ),
    PrivateName(
        "dbos._event_loop.BackgroundEventLoop",
        "distinguishes a task whose loop ends from a task that is cancelled",
        "test_outcomes.py::test_the_loops_own_end_is_no_outcome",
    ),
    PrivateName(
        "._shutdown",
        "the coroutine that ends that loop",
        "test_outcomes.py::test_the_loops_own_end_is_no_outcome",
    ),
    # --- stored values ---
    PrivateName(
        "dbos._serialization.DefaultSerializer",
        "refuses to load and make pickles",
        "test_no_pickle.py::test_dbos_pickles_in_one_place_only",
    ),
    PrivateName(
        "dbos._serialization.exception_to_workflow_error_data",
        "an error can always be stored",
        "test_outcomes.py::test_what_is_stored_of_an_error_is_made_in_one_place",
    ),
    PrivateName(
        "dbos._serialization.deserialize_value",
        "a result that was read ahead, in the format that its row names",
        "test_replay.py::test_every_kind_of_record_is_read_ahead",
    ),
    PrivateName(
        "dbos._serialization.serialization_for_type",
        "the format of a workflow's outcome",
        "test_outcomes.py::test_a_timeout_around_a_child_stays_a_timeout",
    ),
    # --- waiting ---
    *(
        PrivateName(name, why, "test_waits.py::test_a_wait_is_published_until_the_workflow_goes_on")
        for name, why in (
            (
                "dbos._core.WorkflowHandleFuture",
                "waiting for a workflow that runs in this process is a wait",
            ),
            ("dbos._core.WorkflowHandleAsyncTask", "the same for async workflows"),
            ("._get_result", "the method of both handles that blocks"),
            ("dbos._dbos.time", "a workflow's sleep is a wait"),
            ("dbos._dbos.asyncio", "the same for async workflows"),
        )
    ),
    PrivateName(
        "dbos._outcome.NoResult",
        "what a check for a workflow's result returns before there is one",
        "test_waits.py::test_a_missed_notice_costs_a_poll_at_the_next_session",
    ),
    PrivateName(
        "dbos._utils.LoopAwareEvent",
        "the event that a blocking call waits on",
        "test_contracts.py::test_who_waits_is_known_by_what_notifications_say",
    ),
    *(
        PrivateName(
            name,
            "heard on Holdfast's own session too, which is back sooner after an outage",
            "test_contracts.py::test_who_waits_is_known_by_what_notifications_say",
        )
        for name in (
            "dbos._sys_db._dbos_notifications_channel",
            "dbos._sys_db._dbos_streams_channel",
            "dbos._sys_db._dbos_workflow_events_channel",
        )
    ),
    # --- outages ---
    PrivateName(
        "dbos._sys_db.db_retry",
        "methods that lack DBOS's own retry get it",
        "test_outages.py::test_every_method_that_reaches_the_database_is_retried_or_known",
    ),
    PrivateName(
        "dbos._sys_db.retriable_postgres_exception",
        "one rule says which errors of PostgreSQL are an outage",
        "test_outages.py::test_the_sleep_between_retries_is_capped",
    ),
    PrivateName(
        "dbos._sys_db.time",
        "the sleep between retries ends when PostgreSQL is back",
        "test_outages.py::test_the_sleep_between_retries_is_capped",
    ),
    PrivateName(
        "dbos._datasource._is_retriable_db_error",
        "the rule about outages, for transactions of a datasource",
        "test_outages.py::test_no_outage_reaches_the_code",
    ),
    # --- schedules and the schema ---
    PrivateName(
        "dbos._scheduler._enqueue_scheduled_workflow",
        "the database decides about a tick, by the rules of its schedule",
        "test_contracts.py::test_the_signature_of_the_schedules_enqueue",
    ),
    PrivateName(
        "dbos._scheduler.datetime",
        "ticks are computed on the database's clock",
        "test_contracts.py::test_a_wrong_clock_schedules_nothing_and_the_right_one_goes_on",
    ),
    PrivateName(
        "dbos._dbos._get_or_create_dbos_registry",
        "whether this process has the workflow of a schedule",
        "test_contracts.py::test_a_schedule_is_known_by_the_registry_of_workflows",
    ),
    *(
        PrivateName(name, why, "test_registrations.py::test_an_executor_publishes_what_it_can_run")
        for name, why in (
            ("dbos._dbos._get_dbos_instance", "the launched application: its queues and its serializer"),
            (
                "dbos._registrations.get_func_info",
                "class and instances of a workflow that is started by name",
            ),
            (
                "dbos._serialization.WorkflowSerializationFormat",
                "whether a workflow asks for portable values",
            ),
        )
    ),
    PrivateName(
        "._listening_queues",
        "a plain module registers its queues after the launch",
        "test_plain_modules.py::test_a_worker_runs_a_plain_module_beside_a_typed_one",
    ),
    PrivateName(
        "dbos._migration.get_dbos_migrations",
        "whether the database is migrated, and whether a backup is newer than the installed DBOS",
        "test_contracts.py::test_the_migrations_are_counted_as_the_database_counts_them",
    ),
    PrivateName(
        "dbos._datasource_migration.get_postgres_datasource_migrations",
        "the same for the tables of datasources",
        "test_contracts.py::test_the_migrations_are_counted_as_the_database_counts_them",
    ),
)
