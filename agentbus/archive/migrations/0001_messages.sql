-- Everything that has ended, with its end. Rows are added once and never changed.
CREATE TABLE messages (
    -- When it ended, by the clock of the broker. The same at every attempt to archive it.
    ended_at timestamptz NOT NULL,
    -- What every key of the deployment begins with: several may share a database.
    prefix text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    -- Its point in the order of history: the id of the record that tells of the end (in a channel of the entry),
    -- and its place in that record.
    ended_ms numeric(20) NOT NULL,
    ended_seq numeric(20) NOT NULL,
    ended_index integer NOT NULL,
    -- Where it was in the broker when it ended: the stream, and the two halves of the entry id.
    stream text COLLATE "C" NOT NULL,
    entry_ms numeric(20) NOT NULL,
    entry_seq numeric(20) NOT NULL,
    message_id text COLLATE "C",
    topic text COLLATE "C",
    type text COLLATE "C",
    sender text COLLATE "C",
    sender_type text COLLATE "C",
    recipient text COLLATE "C",
    correlation_id text COLLATE "C",
    session_id text COLLATE "C",
    project text COLLATE "C",
    priority text COLLATE "C",
    -- As the sender's clock had it; null where the envelope says none.
    sent_at timestamptz,
    -- processed, expired, cancelled, discarded, resolved, moved; logged for a channel.
    outcome text COLLATE "C" NOT NULL,
    consumer text NOT NULL,
    attempts integer NOT NULL,
    -- For queries; null where jsonb cannot hold it (NUL characters, text that is no JSON).
    envelope jsonb,
    -- The truth: the envelope as it travelled, byte by byte. Empty for an entry that was no message.
    raw bytea NOT NULL,
    -- What the broker knew besides: attempts, failures.
    state jsonb,
    -- Of a dead letter its reason and resolution, of what was no message its fields.
    details jsonb,
    archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (ended_at, prefix, address, stream, entry_ms, entry_seq)
) PARTITION BY RANGE (ended_at);

CREATE INDEX messages_history ON messages (prefix, address, ended_ms, ended_seq, ended_index);
-- Whether a message is there already, whenever it ended.
CREATE INDEX messages_entry ON messages (prefix, address, entry_ms, entry_seq, stream);
CREATE INDEX messages_message_id ON messages (message_id);
CREATE INDEX messages_correlation_id ON messages (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX messages_topic ON messages (topic, ended_at);

-- Rows that `messages` does not take (somebody's constraint or trigger), so that one does not hold up the rest.
CREATE TABLE refused (
    prefix text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    entry_id text COLLATE "C" NOT NULL,
    ended_ms numeric(20) NOT NULL,
    outcome text NOT NULL,
    consumer text NOT NULL,
    raw bytea NOT NULL,
    state bytea NOT NULL,
    error text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (prefix, address, stream, entry_id)
);
