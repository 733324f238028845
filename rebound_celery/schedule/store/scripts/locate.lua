-- Where messages are.
-- KEYS[1]  messages  HASH id -> envelope and stored form
-- ARGV     ids
-- Returns for each id its lane reference, or the empty text if there is none.
local found = redis.call('HMGET', KEYS[1], unpack(ARGV))
for i = 1, #ARGV do found[i] = found[i] and reference_of(found[i]) or '' end
return found
