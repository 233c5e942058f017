"""Names of the OpenTelemetry conventions for messaging, which are still in development.

Our own copy, so that the library needs the API alone; a test compares them with the published ones.
"""

SYSTEM = "messaging.system"
DESTINATION = "messaging.destination.name"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
AGENT_NAME = "gen_ai.agent.name"
#: Our own: 1 for the first attempt.
ATTEMPT = "agentbus.attempt"

SEND, PROCESS, SETTLE = "send", "process", "settle"
#: Not among the systems that the conventions know, but what others on Redis say too.
REDIS = "redis"
