# J1, the obvious way: whole lines by a substring, one output of each class for each input file.
# Run in the folder of the inputs: mawk -v out=OUT -f j1.awk FILE...

FNR == 1 {
    if (server_error) { close(server_error); close(client_error); close(ok) }
    server_error = out "/server_error/" FILENAME
    client_error = out "/client_error/" FILENAME
    ok = out "/ok/" FILENAME
}

index($0, "\"status\":5") { print > server_error; next }
index($0, "\"status\":4") { print > client_error; next }
{ print > ok }
