-- Records of outcomes. Ids of one stream that follow each other share one text, so that a record can always
-- be written in one call, however many entries it speaks of: Lua cannot unpack more than some 8,000 values.
local function note(record, source, id)
  local run = record[#record]
  if not run or run.source ~= source then
    run = {source = source}
    record[#record + 1] = run
  end
  run[#run + 1] = id
  record.count = (record.count or 0) + 1
end

local function write_record(outcomes, consumer, outcome, record)
  local fields = {}
  for _, run in ipairs(record) do
    fields[#fields + 1] = SOURCES[run.source + 1]
    fields[#fields + 1] = table.concat(run, ' ')
  end
  redis.call('XADD', outcomes, '*', 'consumer', consumer, 'outcome', outcome, unpack(fields))
end
