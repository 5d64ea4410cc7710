-- Frames of 512 bytes (RFC 2544 section 9.1). See profile.lua.
package.path = package.path .. ";?.lua"
require("profile").single(512)
