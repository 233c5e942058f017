#!lua flags=allow-oom
-- Reads several things at one moment.
--
-- KEYS   every key that is read
-- ARGV   for each command: how many words it has, then the words
-- Returns the reply of each command; one that is refused has its error
--
-- Not MULTI: a server at its memory limit takes no command into a transaction, and that is when people look.
local replies, at = {}, 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  replies[#replies + 1] = redis.pcall(unpack(ARGV, at + 1, at + words))
  at = at + 1 + words
end
return replies
